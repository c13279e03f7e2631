"""Experts that are LoRA adapters on a base that another engine runs: no swap, no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from coe.engines.base import EngineState, closing_stream
from coe.engines.raw_answer import RAW_ROUTES
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_command import spec_of, takes_adapters
from coe.engines.vllm_server import RunningVllm
from coe.errors import ConfigError, EngineError, StartupError
from coe.experts import Expert
from coe.types import Delta, GenerationRequest

_LOAD_S = 60.0


class VllmLoraEngine:
    """One adapter. It is ready when its base is awake and has loaded it.

    A base that was started anew has forgotten it; then it is loaded again. `stop` unloads it
    and leaves the base alone.
    """

    def __init__(self, expert: Expert, base: VllmEngine, path: Path) -> None:
        """`path`: the adapter's directory. Raises `ConfigError` if the base takes no adapters."""
        if not takes_adapters(spec_of(base.expert)):
            raise ConfigError(
                f"expert {expert.id!r} is an adapter on {base.expert_id!r}, which takes none; add "
                "`enable-lora: true` to the flags of the base"
            )
        self.expert = expert
        self._base = base
        self._path = path
        self._loading = asyncio.Lock()

    @property
    def expert_id(self) -> str:
        return self.expert.id

    @property
    def state(self) -> EngineState:
        return self._base.state

    @property
    def raw_routes(self) -> frozenset[str]:
        return RAW_ROUTES

    async def ensure_ready(self, timeout_s: float) -> None:
        await self._base.ensure_ready(timeout_s)
        async with self._base.running() as server:
            await self._load(server)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with self._base.running() as server:
            await self._load(server)
            engine = server.remote.engine_for(self.expert)
            async with closing_stream(engine.stream(request)) as deltas:
                async for delta in deltas:
                    yield delta

    async def stop(self, timeout_s: float) -> None:
        if self._base.state is not EngineState.READY:
            return
        async with self._base.running() as server:
            if self.expert_id in server.adapters:
                server.adapters.discard(self.expert_id)
                await server.control.unload_adapter(self.expert_id, timeout_s)

    async def _load(self, server: RunningVllm) -> None:
        async with self._loading:
            if self.expert_id in server.adapters:
                return
            if not self._path.is_dir():
                raise StartupError(self.expert_id, f"there is no adapter in {self._path}")
            path = str(self._path.absolute())
            try:
                await server.control.load_adapter(self.expert_id, path, _LOAD_S)
            except EngineError as error:
                raise StartupError(
                    self.expert_id, f"its adapter cannot be loaded: {error}"
                ) from None
            server.adapters.add(self.expert_id)
