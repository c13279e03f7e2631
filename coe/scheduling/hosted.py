"""An engine that waits for its turn: the wrapper that puts a pool under a scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from coe.engines.base import Engine, EngineState, closing_stream
from coe.errors import StartupError
from coe.scheduling.dispatcher import Dispatcher
from coe.types import Delta, GenerationRequest


class HostedEngine:
    """The inner engine, started, stopped and asked only when the dispatcher's scheduler says so."""

    def __init__(self, inner: Engine, dispatcher: Dispatcher) -> None:
        self.inner = inner
        self._dispatcher = dispatcher

    @property
    def expert_id(self) -> str:
        return self.inner.expert_id

    @property
    def state(self) -> EngineState:
        return self.inner.state

    async def ensure_ready(self, timeout_s: float) -> None:
        """Returns once it has been resident; the scheduler may need the room again at once."""
        try:
            async with asyncio.timeout(timeout_s), self._dispatcher.turn(self.expert_id):
                pass  # its turn comes only while it is resident
        except TimeoutError:
            raise StartupError(
                self.expert_id, f"its turn did not come within {timeout_s:g} s"
            ) from None

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with (
            self._dispatcher.turn(self.expert_id, request.priority, request.deadline_s),
            closing_stream(self.inner.stream(request)) as deltas,
        ):
            async for delta in deltas:
                yield delta

    async def stop(self, timeout_s: float) -> None:
        """Stops the whole pool, which is what a composition that stops its engines wants."""
        await self._dispatcher.shut_down(timeout_s)
