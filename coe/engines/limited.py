"""A bound on what one engine is asked at once, and a bounded line before it.

For experts that no scheduler hosts; those it does have their `max_in_flight` and line there.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from coe.engines.base import Engine, closing_stream, whole_of
from coe.engines.wrapping import WrappingEngine
from coe.errors import DeadlineExceeded, QueueFull, UpstreamError
from coe.types import Delta, GenerationRequest

Turn = asyncio.Future[None]

_SMOOTHING = 0.2
"""Weight of the newest of the times that a place was held."""
_UNMEASURED_S = 1.0
_FULL_LINES = 8
"""Nobody is sent away for longer than so many full lines take: who knows who comes back."""


class LimitedEngine(WrappingEngine):
    """Lets `max_in_flight` streams run at once and `max_queued` more wait, and refuses others.

    Who waits goes by priority, then by arrival; nobody who comes later slips in before the line.
    A place is held from the grant to the close of the stream. Raises `QueueFull` that says when a
    place in the line should be free, as measured, and `DeadlineExceeded` for who waits past its
    deadline. `stop` turns away those who wait.
    """

    def __init__(
        self,
        inner: Engine,
        max_in_flight: int,
        max_queued: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_in_flight < 1 or max_queued < 0:
            raise ValueError("max_in_flight must be at least 1 and max_queued at least 0")
        super().__init__(inner)
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._clock = clock
        self._lines: dict[int, OrderedDict[Turn, None]] = {}
        self._n_turned_away = 0
        self._held_s: float | None = None
        self.n_in_flight = 0
        self.n_waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether whoever comes now is turned away."""
        return self.n_in_flight >= self._max_in_flight and self.n_waiting >= self._max_queued

    @property
    def wait_s(self) -> float:
        """Until there should be a place for the next one that is turned away."""
        held_s = _UNMEASURED_S if self._held_s is None else self._held_s
        return max(0.001, (self._n_turned_away + 1) * held_s / self._max_in_flight)

    def turned_away(self) -> QueueFull:
        """What to tell one more. Those turned away one after the other are sent back so."""
        wait_s = self.wait_s
        most = _FULL_LINES * (self._max_in_flight + self._max_queued)
        self._n_turned_away = min(self._n_turned_away + 1, most)
        return QueueFull(
            f"{self.n_waiting} requests already wait for expert {self.expert_id!r}",
            round(wait_s, 3),
        )

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with (
            self._place(request),
            closing_stream(self.inner.stream(request)) as deltas,
        ):
            async for delta in deltas:
                yield delta

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        async with self._place(request):
            return await whole_of(self.inner, request)

    async def stop(self, timeout_s: float) -> None:
        # First, so that the places which the stop frees do not start the engine anew.
        for line in self._lines.values():
            for turn in line:
                if not turn.done():
                    turn.set_exception(
                        UpstreamError(self.expert_id, "was stopped while this request waited")
                    )
        await super().stop(timeout_s)

    @asynccontextmanager
    async def _place(self, request: GenerationRequest) -> AsyncIterator[None]:
        if self.n_in_flight < self._max_in_flight:
            # Nobody waits: a place that comes free while somebody does is never given back.
            self.n_in_flight += 1
        elif self.n_waiting >= self._max_queued:
            raise self.turned_away()
        else:
            await self._wait_before_deadline(request)
        since_s = self._clock()
        try:
            yield
        finally:
            self._measure(self._clock() - since_s)
            self._pass_on()

    async def _wait_before_deadline(self, request: GenerationRequest) -> None:
        try:
            async with asyncio.timeout_at(request.deadline_s) as limit:
                await self._wait(request.priority)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"expert {self.expert_id!r} is busy and the deadline passed in its line; "
                "allow more time or ask another expert"
            ) from None

    async def _wait(self, priority: int) -> None:
        turn: Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(priority, OrderedDict())[turn] = None
        self.n_waiting += 1
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Granted and cancelled in the same turn of the loop.
                self._pass_on()
            else:
                self._leave(priority, turn)
            raise

    def _pass_on(self) -> None:
        """Gives a place that is free to the first in line who still wants it."""
        self._n_turned_away = max(0, self._n_turned_away - 1)
        while self._lines:
            priority = max(self._lines)
            turn = next(iter(self._lines[priority]))
            self._leave(priority, turn)
            if not turn.done():
                turn.set_result(None)
                return
        self.n_in_flight -= 1
        if not self.n_in_flight:
            self._n_turned_away = 0  # whoever is to come back would be here

    def _leave(self, priority: int, turn: Turn) -> None:
        line = self._lines.get(priority)
        if line is None or turn not in line:
            return
        del line[turn]
        self.n_waiting -= 1
        if not line:
            del self._lines[priority]

    def _measure(self, held_s: float) -> None:
        before_s = held_s if self._held_s is None else self._held_s
        self._held_s = before_s + _SMOOTHING * (held_s - before_s)


def all_full(engines: Iterable[Engine]) -> QueueFull | None:
    """What to tell whoever would be turned away by any of them, by the one that has a place first.
    None where somebody might be taken on.
    """
    first: LimitedEngine | None = None
    for engine in engines:
        bound = _bound_of(engine)
        if bound is None or not bound.is_full:
            return None
        if first is None or bound.wait_s < first.wait_s:
            first = bound
    return None if first is None else first.turned_away()


def _bound_of(engine: Engine) -> LimitedEngine | None:
    layer: object = engine
    # Asked on every request; an instance check against a protocol costs ten times as much.
    while layer is not None and not isinstance(layer, LimitedEngine):
        layer = getattr(layer, "inner", None)
    return layer
