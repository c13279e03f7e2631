"""A circuit breaker around an engine: an expert that fails is not asked for a while."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from coe.engines.base import Engine, closing_stream, whole_of
from coe.engines.breaker import Breaker, BreakerState, Call
from coe.engines.wrapping import WrappingEngine
from coe.errors import CoeError, EngineError, UpstreamError
from coe.reliability import BreakerRules
from coe.types import Delta, GenerationRequest

# Statuses below 500 that everybody would be answered with: no key, no money, no such model, no
# time. The other 4xx are about one request.
_NOBODY_SERVED = frozenset({401, 402, 404, 408, 429})


class BreakerOpen(EngineError):
    """An expert that failed too often is not asked now, and may be after `retry_after_s`."""

    def __init__(self, expert_id: str, reason: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(expert_id, f"{reason}; it is tried again in {retry_after_s:.3g} s")


class BreakingEngine(WrappingEngine):
    """Fails fast with `BreakerOpen` while the expert is likely to fail; `breaker` has the rules.

    A stream that its reader leaves counts as nothing, or as an answer once a delta came. Errors
    that are the caller's own count as nothing. `ensure_ready` is always let through.
    """

    def __init__(
        self,
        inner: Engine,
        rules: BreakerRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._breaker = Breaker(rules or BreakerRules())
        self._clock = clock

    @property
    def breaker_state(self) -> BreakerState:
        """For reports."""
        return self._breaker.state(self._clock())

    @property
    def n_openings(self) -> int:
        return self._breaker.n_openings

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        call = self._admitted()
        ok: bool | None = None
        try:
            async with closing_stream(self.inner.stream(request)) as deltas:
                is_whole = False
                async for delta in deltas:
                    call, ok = self._breaker.on_life(call), True
                    is_whole = is_whole or delta.finish_reason is not None
                    yield delta
                ok = is_whole
        except CoeError as error:
            ok = False if is_the_experts(error) else ok
            raise
        finally:
            self._breaker.on_end(self._clock(), call, ok)

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        call = self._admitted()
        ok: bool | None = None
        try:
            deltas = await whole_of(self.inner, request)
            ok = bool(deltas) and deltas[-1].finish_reason is not None
        except CoeError as error:
            ok = False if is_the_experts(error) else None
            raise
        finally:
            self._breaker.on_end(self._clock(), call, ok)
        return deltas

    async def stop(self, timeout_s: float) -> None:
        # First: what a stop cuts off is no failure, and what starts after it has not failed yet.
        self._breaker.forget()
        await super().stop(timeout_s)

    def _admitted(self) -> Call:
        now = self._clock()
        call = self._breaker.on_arrival(now)
        if call is None:
            breaker = self._breaker
            reason = (
                "is being tried with one request after it failed"
                if breaker.state(now) is BreakerState.HALF_OPEN
                else f"failed {_told(breaker)}"
            )
            raise BreakerOpen(self.expert_id, reason, max(0.001, breaker.wait_s(now)))
        return call


def _told(breaker: Breaker) -> str:
    if breaker.n_in_a_row >= breaker.rules.in_a_row:
        return f"{breaker.n_in_a_row} times in a row"
    return f"{breaker.n_failed} of its last {breaker.n_calls} requests"


def is_the_experts(error: CoeError) -> bool:
    """Whether a failure tells of the expert, and not of one request or of its caller."""
    if isinstance(error, UpstreamError) and error.status is not None:
        return error.status >= 500 or error.status in _NOBODY_SERVED
    return isinstance(error, EngineError)
