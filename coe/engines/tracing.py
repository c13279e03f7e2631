"""Which inner experts fired, for any engine that can tell."""

from __future__ import annotations

from coe.engines.base import Engine
from coe.engines.local import LocalEngine
from coe.engines.local_trace import trace as trace_local
from coe.engines.routed_experts import Traced
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_trace import trace as trace_vllm
from coe.errors import ConfigError
from coe.types import GenerationRequest


async def trace(engine: Engine, request: GenerationRequest) -> Traced:
    """Greedy unless the request says otherwise. Raises what a stream would raise, and
    `ConfigError` for an engine that cannot tell and for a model that has no inner experts.
    """
    if isinstance(engine, LocalEngine):
        return await trace_local(engine, request)
    if isinstance(engine, VllmEngine):
        return await trace_vllm(engine, request)
    raise ConfigError(
        f"expert {engine.expert_id!r} cannot be traced: only experts that CoE runs itself, of kind "
        "'local' or 'vllm', tell which inner experts fired"
    )
