"""Experts as vLLM servers of our own: started, put to sleep, woken, watched and ended here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from coe.engines.base import EngineState, closing_stream
from coe.engines.raw_answer import RAW_ROUTES
from coe.engines.vllm_command import spec_of
from coe.engines.vllm_life import Life
from coe.engines.vllm_memory import MemoryProbe, default_probe
from coe.engines.vllm_phase import STATES, Phase
from coe.engines.vllm_server import Launcher, RunningVllm
from coe.errors import EngineError, UpstreamError
from coe.experts import Expert
from coe.types import Delta, GenerationRequest

_DYING_S = 0.5
_LAUNCH_SHARE = 0.95
"""Of the patience: a start that hangs is told with its log before its callers lose theirs."""


class VllmEngine:
    """One vLLM server on this machine.

    Meets the dispatcher's `Sleeper`, `Mortal` and `Placed`. A stream makes the expert ready if
    it has to, unless somebody listens for its deaths: then the memory is theirs to give, and a
    stream that finds the expert gone raises `UpstreamError`. While a stream runs, the expert does
    not fall asleep. `stop` waits `drain_s` for the answers under way; what is still running then
    ends with an `UpstreamError`.
    """

    def __init__(
        self,
        expert: Expert,
        state_dir: Path,
        startup_timeout_s: float = 300.0,
        probe: MemoryProbe | None = None,
        health_every_s: float = 10.0,
    ) -> None:
        """`state_dir`: log, lock and record of the process; for one CoE alone. `probe` None:
        the driver's figures where there are any.
        """
        spec = spec_of(expert)
        self.expert = expert
        self._life: Life[RunningVllm] = Life(
            expert.id,
            Launcher(
                expert, state_dir, probe or default_probe(), _LAUNCH_SHARE * startup_timeout_s
            ),
            startup_timeout_s,
            health_every_s,
            spec.drain_s,
        )

    @property
    def expert_id(self) -> str:
        return self.expert.id

    @property
    def state(self) -> EngineState:
        return STATES.get(self._life.phase, EngineState.STOPPED)

    @property
    def phase(self) -> Phase:
        """`state`, in finer words. To report."""
        return self._life.phase

    @property
    def raw_routes(self) -> frozenset[str]:
        return RAW_ROUTES

    def on_death(self, tell: Callable[[], None]) -> None:
        self._life.on_death(tell)

    def place(self, devices: Sequence[str]) -> None:
        """One that sleeps elsewhere is started anew there."""
        self._life.place(devices)

    async def ensure_ready(self, timeout_s: float) -> None:
        await self._life.ensure_awake(timeout_s)

    async def sleep(self, timeout_s: float) -> float | None:
        """Lets the answers under way end first. Raises `EngineError` if it does not get to sleep
        in time, frees too little, or cannot sleep at all; `stop` frees it then.
        """
        if not spec_of(self.expert).sleep_level:
            raise EngineError(self.expert_id, "cannot sleep: its sleep_level is 0")
        return await self._life.sleep(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        await self._life.end(timeout_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RunningVllm]:
        """The awake server, started or woken if need be. It stays awake while the block runs."""
        async with self._life.guest() as server:
            yield server

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with self.running() as server:
            try:
                async with closing_stream(server.remote.engine.stream(request)) as deltas:
                    async for delta in deltas:
                        yield delta
            except UpstreamError as error:
                raise await self._told(server, error) from None

    async def _told(self, server: RunningVllm, error: UpstreamError) -> UpstreamError:
        """The error, or the last words of a server that died of itself."""
        if error.status is not None or self._life.is_told_to_end:
            return error
        try:
            # A connection is cut a little before the process is found dead.
            async with asyncio.timeout(_DYING_S):
                ending = await server.exited()
        except TimeoutError:
            return error
        return UpstreamError(self.expert_id, server.obituary(ending))
