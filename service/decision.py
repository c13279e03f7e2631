"""A routing decision as a client sees it."""

from __future__ import annotations

from collections.abc import Collection

from coe.routing import RoutingDecision
from coe.service.reply import MAX_HEADER_BYTES, Header, header_value, quoted

_MAX_SCORES = 8


def decision_headers(
    decision: RoutingDecision, among: Collection[str] | None = None
) -> list[Header]:
    """Who answers and why, in headers: experts best first, then the best scores, of no others than
    those `among` whom it was decided.
    """
    headers = [
        (b"x-coe-expert", header_value(*decision.experts)),
        (b"x-coe-router", header_value(decision.router)),
        (b"x-coe-decision-id", _id(decision.query_id)),
    ]
    if not decision.scores:
        return headers
    told = [item for item in decision.scores.items() if among is None or item[0] in among]
    if told:
        best = sorted(told, key=lambda item: -item[1])[:_MAX_SCORES]
        scores = (b"%b=%b" % (quoted(id_), b"%.4g" % score) for id_, score in best)
        headers.append((b"x-coe-scores", b",".join(scores)[:MAX_HEADER_BYTES]))
    return headers


def _id(query_id: str) -> bytes:
    # Ours are; quoting keeps what it has quoted, and no two of these are alike.
    if query_id.isascii() and query_id.isalnum():
        return query_id[:MAX_HEADER_BYTES].encode()
    return header_value(query_id)
