"""An answer together with the sparse experts inside the model that produced it.

vLLM tells of them only where nothing is streamed, so this is a question of its own and no part
of `VllmEngine.stream`.
"""

from __future__ import annotations

from dataclasses import dataclass

from coe.engines.routed_experts import RoutedExperts, read_routed_experts
from coe.engines.vllm import VllmEngine
from coe.errors import UpstreamError
from coe.types import GenerationRequest


@dataclass(frozen=True, slots=True)
class Traced:
    text: str
    routed_experts: RoutedExperts | None
    """None unless the expert's flags have `enable-return-routed-experts: true`."""


async def trace(engine: VllmEngine, request: GenerationRequest, timeout_s: float = 120.0) -> Traced:
    """Greedy unless the request says otherwise. Raises what a stream would raise."""
    params = request.params
    body: dict[str, object] = {
        "model": engine.expert_id,
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
        "max_tokens": params.max_tokens or engine.expert.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
    }
    if params.seed is not None:
        body["seed"] = params.seed
    if params.stop:
        body["stop"] = list(params.stop)
    async with engine.running() as server:
        answer = await server.remote.control.chat(body, timeout_s)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(choice, dict) or not isinstance(text, str):
        raise UpstreamError(engine.expert_id, "sent an answer without a text")
    return Traced(text, read_routed_experts(engine.expert_id, choice))
