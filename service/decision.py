"""A routing decision as a client sees it."""

from __future__ import annotations

from coe.routing import RoutingDecision
from coe.service.reply import MAX_HEADER_BYTES, Header, header_value, quoted

_MAX_SCORES = 8


def decision_headers(decision: RoutingDecision) -> list[Header]:
    """Who answers and why, in headers: experts best first, then the best scores."""
    headers = [
        (b"x-coe-expert", header_value(*decision.experts)),
        (b"x-coe-router", header_value(decision.router)),
        (b"x-coe-decision-id", header_value(decision.query_id)),
    ]
    if decision.scores:
        best = sorted(decision.scores.items(), key=lambda item: -item[1])[:_MAX_SCORES]
        scores = (b"%b=%b" % (quoted(id_), b"%.4g" % score) for id_, score in best)
        headers.append((b"x-coe-scores", b",".join(scores)[:MAX_HEADER_BYTES]))
    return headers
