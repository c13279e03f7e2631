"""The seam between CoE and whatever runs an expert."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Protocol, runtime_checkable

from coe.errors import UpstreamError
from coe.types import Completion, Delta, FinishReason, GenerationRequest, Timing, Usage


class EngineState(Enum):
    """Where an engine is in its life. A snapshot for reports, never a gate."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    FAILED = "failed"


class Engine(Protocol):
    """Serves one expert.

    Safe for any number of concurrent streams on one event loop. The engine alone decides
    whether it has to load, wait or refuse: callers ask with `ensure_ready` and never branch
    on `state`.
    """

    @property
    def expert_id(self) -> str: ...

    @property
    def state(self) -> EngineState:
        """A snapshot: report it, never branch a start or stop on it."""
        ...

    async def ensure_ready(self, timeout_s: float) -> None:
        """Returns once the expert can answer; raises `StartupError` if it cannot be made to.

        Idempotent, and joins a start that is already under way.
        """
        ...

    def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Generates one completion, piece by piece.

        Makes itself ready first if it has to. Yields text deltas and then exactly one delta
        with a finish reason and the usage. Raises an `EngineError` if the expert fails, also
        in the middle: the end of the iterator without a finish reason never means success.
        Closing the iterator cancels the work.
        """
        ...

    async def stop(self, timeout_s: float) -> None:
        """Frees what the expert occupies. Idempotent; a later `ensure_ready` starts it again."""
        ...


@runtime_checkable
class PassesBytes(Protocol):
    """An engine that honours `GenerationRequest.raw`, for these routes."""

    @property
    def raw_routes(self) -> frozenset[str]: ...


async def whole_of(engine: Engine, request: GenerationRequest) -> Sequence[Delta]:
    """All deltas of a stream at once, for an answer whose first piece is the whole of it.

    Raises what the stream raises. Engines that have a `whole` of their own give the same by it:
    a coroutine costs a fraction of the generators that a stream goes through.
    """
    whole = getattr(engine, "whole", None)
    if whole is not None:
        deltas: Sequence[Delta] = await whole(request)
        return deltas
    return await listed(engine.stream(request))


async def listed(stream: AsyncIterator[Delta]) -> Sequence[Delta]:
    """Every delta of a stream. Raises what it raises, and closes it."""
    async with closing_stream(stream) as deltas:
        return [delta async for delta in deltas]


async def collect(expert_id: str, deltas: AsyncIterator[Delta]) -> Completion:
    """The whole of a stream, timed. Raises what the stream raises, and closes it.

    `expert_id` names the expert to blame if the stream ends without a finish reason.
    """
    started = time.perf_counter()
    first: float | None = None
    texts: list[str] = []
    reason: FinishReason | None = None
    usage: Usage | None = None
    async with closing_stream(deltas):
        async for delta in deltas:
            if delta.text:
                first = first or time.perf_counter()
                texts.append(delta.text)
            reason = delta.finish_reason or reason
            usage = delta.usage or usage
    if reason is None:
        raise UpstreamError(expert_id, "the answer broke off before its end")
    ended = time.perf_counter()
    timing = Timing(ttft_s=(first or ended) - started, e2el_s=ended - started)
    return Completion("".join(texts), reason, usage, timing)


class closing_stream:
    """Closes a stream on the way out, however it is left, so that its work is cancelled.

    A class, because a request enters several: made of a generator each costs three times as much.
    """

    __slots__ = ("_deltas",)

    def __init__(self, deltas: AsyncIterator[Delta]) -> None:
        self._deltas = deltas

    async def __aenter__(self) -> AsyncIterator[Delta]:
        return self._deltas

    async def __aexit__(self, *raised: object) -> None:
        aclose = getattr(self._deltas, "aclose", None)
        if aclose is not None:
            await aclose()
