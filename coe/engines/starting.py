"""The life of an engine that starts and stops by itself: one start that callers share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from coe.engines.base import EngineState
from coe.errors import StartupError
from coe.experts import Expert


class Lifecycle:
    """Runs `start` at most once at a time, for any number of callers."""

    def __init__(self, expert_id: str, start: Callable[[], Awaitable[None]]) -> None:
        self._expert_id = expert_id
        self._start = start
        self._task: asyncio.Task[None] | None = None
        self.state = EngineState.STOPPED
        self._trouble: str | None = None

    async def ensure(self, timeout_s: float | None) -> None:
        """Returns once started; raises what `start` raises, or `StartupError` when it is late.

        A caller that gives up does not take the start away from the others.
        """
        if self.state is EngineState.READY:
            return
        if self._task is None:
            self.state = EngineState.LOADING
            self._trouble = None
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_retrieve)
        task = self._task
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            cause = f" ({self._trouble})" if self._trouble else ""
            raise StartupError(
                self._expert_id,
                f"not ready within {timeout_s:g} s{cause}; raise startup_timeout_s if it needs "
                "longer",
            )
        if task.cancelled():
            raise StartupError(self._expert_id, "was stopped while it started")
        task.result()

    def meet(self, trouble: str) -> None:
        """Notes what holds the start up, for whoever gives up waiting for it."""
        self._trouble = trouble

    async def end(self) -> None:
        """Ends a start that is under way. Afterwards the state is stopped."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._task is None:
            self.state = EngineState.STOPPED

    async def _run(self) -> None:
        try:
            await self._start()
        except BaseException:
            self._settle(EngineState.FAILED)
            raise
        self._settle(EngineState.READY)

    def _settle(self, state: EngineState) -> None:
        # A start that was ended must not speak for the one that followed it.
        if self._task is asyncio.current_task():
            self._task = None
            self.state = state


class SelfStarting(ABC):
    """The part of an `Engine` that is the same wherever `_start` is all there is to starting."""

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self._lifecycle = Lifecycle(expert.id, self._start)

    @property
    def expert_id(self) -> str:
        return self._expert.id

    @property
    def state(self) -> EngineState:
        return self._lifecycle.state

    async def ensure_ready(self, timeout_s: float) -> None:
        await self._lifecycle.ensure(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        await self._lifecycle.end()

    @abstractmethod
    async def _start(self) -> None:
        """Returns once the expert can answer, however long that takes."""


def _retrieve(task: asyncio.Task[None]) -> None:
    """Marks the outcome as seen: a start whose callers all gave up is nobody's to await."""
    if not task.cancelled():
        task.exception()
