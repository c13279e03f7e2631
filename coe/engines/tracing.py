"""Which inner experts fired, for any engine that can tell."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol, runtime_checkable

from coe.engines.base import Engine
from coe.engines.local import LocalEngine
from coe.engines.local_trace import trace as trace_local
from coe.engines.routed_experts import Traced
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_trace import trace as trace_vllm
from coe.engines.wrapping import layers
from coe.errors import ConfigError
from coe.types import GenerationRequest


@runtime_checkable
class TakesTurns(Protocol):
    """A wrapper whose inner engine may only be used in the request's turn."""

    def turn(self, request: GenerationRequest) -> AbstractAsyncContextManager[None]: ...


async def trace(engine: Engine, request: GenerationRequest) -> Traced:
    """Greedy unless the request says otherwise. Raises what a stream would raise, and
    `ConfigError` for an engine that cannot tell and for a model that has no inner experts.

    Sees through what is around an engine, and waits for its turn where it has one. A trace is
    neither retried, recorded nor counted.
    """
    *around, inner = layers(engine)
    async with AsyncExitStack() as turns:
        if isinstance(inner, LocalEngine | VllmEngine):
            for layer in around:
                if isinstance(layer, TakesTurns):
                    await turns.enter_async_context(layer.turn(request))
        if isinstance(inner, LocalEngine):
            return await trace_local(inner, request)
        if isinstance(inner, VllmEngine):
            return await trace_vllm(inner, request)
    raise ConfigError(
        f"expert {engine.expert_id!r} cannot be traced: only experts that CoE runs itself, of kind "
        "'local' or 'vllm', tell which inner experts fired"
    )
