"""Asking again where that may help, within a budget that keeps an outage from growing by it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from coe.engines.base import Engine, closing_stream, whole_of
from coe.engines.upstream_busy import retry_after_of
from coe.engines.wrapping import WrappingEngine
from coe.errors import CoeError, UpstreamError, UpstreamTimeout
from coe.reliability import RetryRules
from coe.types import Delta, GenerationRequest

_LOG = logging.getLogger(__name__)
_TOO_MANY_REQUESTS = 429

Sleep = Callable[[float], Awaitable[None]]


class RetryBudget:
    """At most `reserve` retries and `share` more for each request, however many fail.

    Failovers are taken from the same share and may run ahead of it by a reserve of their own;
    until that is made up for there are no retries.
    """

    def __init__(self, share: float, reserve: float, failover_reserve: float = 0.0) -> None:
        self._share = share
        self._reserve = reserve
        self._failover_reserve = failover_reserve
        self._balance = reserve

    def on_request(self) -> None:
        self._balance = min(self._reserve, self._balance + self._share)

    def take(self) -> bool:
        """Whether there is a retry left; it is spent then."""
        # Tenths do not add up to a whole exactly.
        if self._balance < 1.0 - 1e-9:
            return False
        self._balance -= 1.0
        return True

    def take_failover(self) -> bool:
        """As `take`, for asking another expert."""
        if self._balance < 1.0 - self._failover_reserve - 1e-9:
            return False
        self._balance -= 1.0
        return True


class RetryingEngine(WrappingEngine):
    """Asks again after a failure that may pass, if nothing of the answer had come yet.

    Such are an `UpstreamError` without a status, of 429 or of 5xx, and an `UpstreamTimeout` that is
    not longer than the longest pause, unless others can be asked: who has waited is better off
    with them. Pauses are drawn between 0 and a bound that doubles (full jitter), after what the
    expert asks for. Nothing is tried again after a `stop`, nor if the pause would end past the
    request's deadline. Raises the last failure.
    """

    def __init__(
        self,
        inner: Engine,
        rules: RetryRules | None = None,
        budget: RetryBudget | None = None,
        sleep: Sleep = asyncio.sleep,
        random_: random.Random | None = None,
    ) -> None:
        """`budget` None: one of its own. One that is shared is told of requests by who shares it,
        who knows which of them are retries and failovers.
        """
        super().__init__(inner)
        self._rules = rules or RetryRules()
        self._owns_budget = budget is None
        self._budget = budget or RetryBudget(self._rules.budget_share, self._rules.budget_reserve)
        self._sleep = sleep
        self._random = random_ or random.Random()
        self._n_stops = 0
        self.n_retries = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        n_stops, n_retries = self._begin(), 0
        has_begun = False
        while True:
            try:
                async with closing_stream(self.inner.stream(request)) as deltas:
                    async for delta in deltas:
                        has_begun = True
                        yield delta
                return
            except (UpstreamError, UpstreamTimeout) as error:
                if has_begun:
                    raise
                failure = error
            await self._pause(failure, request, n_stops, n_retries)
            n_retries += 1

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        n_stops, n_retries = self._begin(), 0
        while True:
            try:
                return await whole_of(self.inner, request)
            except (UpstreamError, UpstreamTimeout) as error:
                failure = error
            await self._pause(failure, request, n_stops, n_retries)
            n_retries += 1

    def _begin(self) -> int:
        """How often it was stopped before this request."""
        if self._owns_budget:
            self._budget.on_request()
        return self._n_stops

    async def _pause(
        self, error: CoeError, request: GenerationRequest, n_stops: int, n_retries: int
    ) -> None:
        """Until the next try. Raises the error where there is to be none."""
        if not is_passing(error) or n_stops != self._n_stops:
            raise error
        pause_s = self._pause_s(error, n_retries, request)
        if pause_s is None:
            raise error
        self.n_retries += 1
        _LOG.info("asking again in %.3g s, as %s", pause_s, error)
        await self._sleep(pause_s)
        if n_stops != self._n_stops:
            raise error

    async def stop(self, timeout_s: float) -> None:
        self._n_stops += 1
        await super().stop(timeout_s)

    def _pause_s(self, error: CoeError, n_retries: int, request: GenerationRequest) -> float | None:
        """How long to wait before the next try; None: there is to be none."""
        rules = self._rules
        if n_retries >= rules.max_retries:
            return None
        asked_s = retry_after_of(error) or 0.0
        waited_s = error.timeout_s if isinstance(error, UpstreamTimeout) else 0.0
        if max(asked_s, waited_s) > rules.longest_pause_s:
            return None
        if waited_s and request.patience_s is not None:
            return None
        bound_s = min(rules.longest_pause_s, rules.first_pause_s * 2.0**n_retries)
        pause_s = asked_s + self._random.uniform(0.0, bound_s)
        if _ends_too_late(request, pause_s):
            return None
        return pause_s if self._budget.take() else None


def _ends_too_late(request: GenerationRequest, pause_s: float) -> bool:
    deadline_s = request.deadline_s
    return deadline_s is not None and (asyncio.get_running_loop().time() + pause_s >= deadline_s)


def is_passing(error: CoeError) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, UpstreamTimeout):
        return True
    if not isinstance(error, UpstreamError):
        return False
    status = error.status
    return status is None or status == _TOO_MANY_REQUESTS or status >= 500
