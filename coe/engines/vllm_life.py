"""The states of one vLLM server, and who may change them when.

    STOPPED ──start──▶ STARTING ──▶ AWAKE ──sleep──▶ FALLING_ASLEEP ──▶ ASLEEP ──wake──▶ WAKING
       ▲                                                                          ──▶ AWAKE
       └── end, from anywhere ── STOPPING ◀── death, from AWAKE and ASLEEP (then FAILED)

One transition is under way at a time. A request passes only while AWAKE, and nobody leaves
AWAKE before the requests that passed are over or given up. A wake that fails becomes a start; a
sleep that fails leaves FAILED, which the next start or end clears away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from coe.engines.vllm_phase import Phase, Server
from coe.errors import CoeError, EngineError, StartupError, UpstreamError

_LOG = logging.getLogger(__name__)
_HEALTH_MISSES = 3
_LEAST_GRACE_S = 1.0
_WAKE_SHARE = 0.25
"""Of the patience for a start, how long a wake may take before it becomes a start."""


S = TypeVar("S", bound=Server)


class Life(Generic[S]):
    """Runs at most one incarnation at a time. Everything happens on one event loop."""

    def __init__(
        self,
        expert_id: str,
        launch: Callable[[Sequence[str]], Awaitable[S]],
        patience_s: float,
        health_every_s: float = 10.0,
        drain_s: float = 10.0,
    ) -> None:
        """`launch` gives a server that answers, or raises with nothing left of it, also when it
        is cancelled. `patience_s` bounds each start, and a share of it each wake.
        """
        self._expert_id = expert_id
        self._launch = launch
        self._patience_s = patience_s
        self._health_every_s = health_every_s
        self._drain_s = drain_s
        self.phase = Phase.STOPPED
        self.server: S | None = None
        self.is_told_to_end = False
        """Whether its end, if it has come, is none of its own."""
        self.n_deaths = 0
        """In a row: a request that was answered ends the row."""
        self._devices: tuple[str, ...] = ()
        self._devices_of_server: tuple[str, ...] = ()
        self._residue_gib: float | None = None
        self._n_guests = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._move: asyncio.Task[None] | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._tellers: list[Callable[[], None]] = []

    def on_death(self, tell: Callable[[], None]) -> None:
        self._tellers.append(tell)

    def place(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)

    async def ensure_awake(self, timeout_s: float) -> None:
        """Joins a start or wake under way, and begins one once nothing else is."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self.phase is not Phase.AWAKE:
            move = self._move or self._begin(*self._rise())
            is_rise = self.phase in (Phase.STARTING, Phase.WAKING)
            await asyncio.wait([move], timeout=max(0.0, until_s - loop.time()))
            if not move.done():
                raise StartupError(
                    self._expert_id,
                    f"not ready within {timeout_s:g} s; raise startup_timeout_s if it needs longer",
                )
            if is_rise:
                if move.cancelled():
                    raise StartupError(self._expert_id, "was stopped while it started")
                move.result()

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[S]:
        """The awake server, which stays awake while the block runs unless it dies or is ended.

        Started or woken first if need be; but where somebody listens for its deaths, the room
        is theirs to give. Then one that is neither awake nor on its way raises `UpstreamError`.
        """
        while self.phase is not Phase.AWAKE or self.server is None:
            if self._tellers and self.phase not in (Phase.STARTING, Phase.WAKING):
                if self.phase is Phase.FAILED and self._move is None:
                    # Who sent this request does not know, or its remains could not be cleared.
                    self._begin(Phase.STOPPING, self._clear_away())
                raise UpstreamError(
                    self._expert_id, "left the device before this request could begin; ask again"
                )
            await self.ensure_awake((1 + _WAKE_SHARE) * self._patience_s)
        self._n_guests += 1
        self._empty.clear()
        try:
            yield self.server
            self.n_deaths = 0
        finally:
            self._n_guests -= 1
            if not self._n_guests:
                self._empty.set()

    async def sleep(self, timeout_s: float) -> float | None:
        """GiB still held on each device; None where that is not measured. Raises `EngineError`."""
        if self.phase is not Phase.ASLEEP:
            if self.phase is not Phase.AWAKE:
                raise EngineError(
                    self._expert_id, f"is {self.phase.value}, so that it cannot be put to sleep"
                )
            move = self._begin(Phase.FALLING_ASLEEP, self._fall_asleep(timeout_s))
            await asyncio.wait([move])
            if move.cancelled():
                raise EngineError(self._expert_id, "was stopped while it fell asleep")
            move.result()
        return self._residue_gib

    async def end(self, timeout_s: float) -> None:
        """Ends the server wherever it is. Raises `EngineError` if some of it does not go.

        Where there is none because its start failed, that stays told.
        """
        has_failed = self.phase is Phase.FAILED and self.server is None and self._move is None
        while self._move is not None and self.phase is not Phase.STOPPING:
            self._move.cancel()
            await asyncio.wait([self._move])
        if self._move is None and self.server is not None:
            self.is_told_to_end = True
            self._begin(Phase.STOPPING, self._stop(timeout_s))
        if (move := self._move) is not None:
            await asyncio.wait([move])
            if not move.cancelled():
                move.result()
        if self._move is None and self.server is None and not has_failed:
            self.phase = Phase.STOPPED

    def _begin(self, phase: Phase, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._move is None, "one transition at a time"
        self.phase = phase
        move = asyncio.create_task(self._run(work))
        self._move = move
        move.add_done_callback(lambda _: self._settle(move, work))
        return move

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException:
            if self.phase is not Phase.AWAKE:
                self.phase = Phase.FAILED
            raise
        finally:
            # At once, so that whatever comes next sees that this one is over.
            self._move = None

    def _settle(self, move: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
        if self._move is move:  # It was cancelled before it ran at all.
            self._move = None
            self.phase = Phase.FAILED
            work.close()
        if not move.cancelled():
            # Marked as seen: a move whose callers all gave up is nobody's to await.
            move.exception()

    def _rise(self) -> tuple[Phase, Coroutine[Any, Any, None]]:
        is_here = self.phase is Phase.ASLEEP and self._devices in ((), self._devices_of_server)
        return (Phase.WAKING, self._wake()) if is_here else (Phase.STARTING, self._start())

    async def _start(self) -> None:
        await self._bury(_LEAST_GRACE_S)
        self._devices_of_server = self._devices
        self.is_told_to_end = False
        try:
            async with asyncio.timeout(self._patience_s):
                server = await self._launch(self._devices)
        except TimeoutError:
            raise StartupError(
                self._expert_id,
                f"not ready within {self._patience_s:g} s; look in its log for what it waits for, "
                "or raise startup_timeout_s if it needs longer",
            ) from None
        self.server = server
        self._watches = [
            asyncio.create_task(self._await_death(server)),
            asyncio.create_task(self._await_silence(server)),
        ]
        self.phase = Phase.AWAKE

    async def _wake(self) -> None:
        assert self.server is not None
        try:
            async with asyncio.timeout(_WAKE_SHARE * self._patience_s):
                await self.server.wake(_WAKE_SHARE * self._patience_s)
        except (CoeError, TimeoutError) as error:
            _LOG.warning("expert %r starts anew: %s", self._expert_id, str(error) or "no end")
            self.phase = Phase.STARTING
            await self._start()
        else:
            self.phase = Phase.AWAKE

    async def _fall_asleep(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        if not await self._emptied(timeout_s):
            self.phase = Phase.AWAKE
            raise EngineError(self._expert_id, f"still answers after {timeout_s:g} s")
        assert self.server is not None
        try:
            async with asyncio.timeout_at(until_s):
                self._residue_gib = await self.server.fall_asleep(until_s - loop.time())
        except TimeoutError:
            raise EngineError(self._expert_id, f"not asleep within {timeout_s:g} s") from None
        self.phase = Phase.ASLEEP

    async def _stop(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        await self._emptied(min(self._drain_s, timeout_s / 2))
        await self._bury(max(_LEAST_GRACE_S, until_s - loop.time()))
        self.phase = Phase.STOPPED

    async def _emptied(self, timeout_s: float) -> bool:
        """Whether the last request is over within so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _bury(self, grace_s: float) -> None:
        """Ends the server, if there is one. It stays ours until all of it is gone."""
        mine = asyncio.current_task()
        for watch in self._watches:
            if watch is not mine:
                watch.cancel()
        if self.server is not None:
            if not await self.server.end(grace_s):
                raise EngineError(
                    self._expert_id, "its processes do not end; see `ps` and end them"
                )
            self.server = None

    async def _await_death(self, server: S) -> None:
        self._lost(server, server.obituary(await server.exited()))

    async def _await_silence(self, server: S) -> None:
        """A server that runs and does not answer any more is as good as dead."""
        misses = 0
        while misses < _HEALTH_MISSES:
            await asyncio.sleep(self._health_every_s)
            misses = 0 if await server.is_healthy() else misses + 1
        self._lost(server, f"its server has not answered /health {misses} times in a row")

    def _lost(self, server: S, obituary: str) -> None:
        # In a transition its failure is what is told; a start that failed tells it itself.
        if server is not self.server or self.phase not in (Phase.AWAKE, Phase.ASLEEP):
            return
        self.n_deaths += 1
        row = f" ({self.n_deaths} times in a row)" if self.n_deaths > 1 else ""
        _LOG.warning("expert %r died%s: %s", self._expert_id, row, obituary)
        self._begin(Phase.STOPPING, self._clear_away())

    async def _clear_away(self) -> None:
        await self._bury(_LEAST_GRACE_S)
        self.phase = Phase.FAILED
        for tell in self._tellers:
            tell()
