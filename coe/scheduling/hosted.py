"""An engine that waits for its turn: the wrapper that puts a pool under a scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from coe.engines.base import Engine, EngineState, closing_stream
from coe.errors import EngineError, RequestError, StartupError
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

    def n_waiting(self) -> int:
        """Requests that wait for their turn now. A snapshot for reports, which takes a while."""
        report = self._dispatcher.report()
        mine = None if report is None else report.experts.get(self.expert_id)
        return 0 if mine is None else mine.waiting

    def turn(self, request: GenerationRequest) -> AbstractAsyncContextManager[None]:
        """Waits until the inner engine may be used for this request; it may while the block runs.

        Raises the scheduler's refusal.
        """
        return self._dispatcher.turn(self.expert_id, request.priority, request.deadline_s)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with (
            self.turn(request),
            closing_stream(self.inner.stream(request)) as deltas,
        ):
            async for delta in deltas:
                yield delta

    async def stop(self, timeout_s: float) -> None:
        """Sends this expert away, from which a later request brings it back.

        Raises `EngineError` if it is still busy after `timeout_s`; it leaves all the same then.
        An adapter is unloaded. A pool is stopped by its dispatcher.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._dispatcher.dismiss(self.expert_id, to_disk=True)
        except TimeoutError:
            raise EngineError(self.expert_id, f"still busy after {timeout_s:g} s") from None
        except RequestError:
            await self.inner.stop(timeout_s)
