"""Who is asked in place of an expert that failed, how long one is waited for before that, and
when it is enough.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coe.engines.breaking import BreakerOpen
from coe.engines.retrying import RetryBudget
from coe.errors import CoeError, ContextOverflow, QueueFull, UpstreamError, UpstreamTimeout
from coe.routing import Router, RoutingDecision

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failover:
    """The rules of a pool."""

    most: int
    """Further experts that one request may be taken to."""
    first_word_share: float
    """Of the time that is left, how much an expert has for its first word while others remain."""
    budget: RetryBudget | None
    """Shared with retries; None: nobody counts."""

    def on_request(self) -> None:
        """A client asks, which allows for a share of a retry or a failover."""
        if self.budget is not None:
            self.budget.on_request()

    def patience_s(
        self,
        router: Router,
        decision: RoutingDecision,
        gone: Collection[str],
        deadline_s: float | None,
    ) -> float | None:
        """How long the next expert is waited for; None: nobody comes after it.

        `gone`: who cannot come after it, itself among them. Without a deadline no time is too long.
        """
        if decision.is_pinned or router.is_adaptive:
            return None
        if deadline_s is None:
            return math.inf if set(router.pool.ids) - set(gone) else None
        if router.replacement(decision, _all(gone, decision, router)) is None:
            return None
        left_s = deadline_s - asyncio.get_running_loop().time()
        return max(0.0, left_s * self.first_word_share)

    def replacement(
        self,
        router: Router,
        decision: RoutingDecision,
        failures: Mapping[str, CoeError],
        removed: Collection[str],
    ) -> str | None:
        """The policy's choice without those that failed, and without contexts as short as one that
        overflowed; None once so many have failed as may, or as the budget has room for.
        """
        if len(failures) > self.most:
            return None
        too_short = [e.context_tokens for e in failures.values() if isinstance(e, ContextOverflow)]
        most = max(too_short, default=0)
        short = {expert.id for expert in router.pool if expert.context_tokens <= most}
        gone = _all({*failures, *short, *removed}, decision, router)
        expert_id = router.replacement(decision, gone)
        if expert_id is None or self._may_cost(list(failures.values())[-1]):
            return expert_id
        return None

    def _may_cost(self, error: CoeError) -> bool:
        """Whether one more call is within the budget, if the failed one was a call at all."""
        # A breaker that is open and a line that is full have asked nobody.
        was_asked = isinstance(error, UpstreamError | UpstreamTimeout)
        if not was_asked or self.budget is None or self.budget.take_failover():
            return True
        _LOG.warning("too many requests fail to take each to another expert")
        return False


def _all(gone: Collection[str], decision: RoutingDecision, router: Router) -> Collection[str]:
    """With those that the decision knows nothing of, who joined the pool since."""
    return {*gone, *(id_ for id_ in router.pool.ids if id_ not in decision.scores)}


def tell_failure(expert_id: str, error: CoeError) -> None:
    # What is refused under load is refused often, and nobody has to look into it.
    is_refusal = isinstance(error, QueueFull | BreakerOpen)
    level = logging.INFO if is_refusal else logging.WARNING
    _LOG.log(level, "expert %r was routed to and failed: %s", expert_id, error)
