"""A vLLM expert's answer together with the inner experts that produced it.

vLLM tells of them only where nothing is streamed, so this is a question of its own and no part
of `VllmEngine.stream`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coe.engines.routed_experts import Traced, read_routed_experts
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_command import spec_of
from coe.errors import ConfigError, UpstreamError
from coe.types import GenerationRequest, Usage

_FLAG = "enable-return-routed-experts"
_SIZES = ("num_experts", "num_local_experts", "n_routed_experts")


async def trace(engine: VllmEngine, request: GenerationRequest, timeout_s: float = 120.0) -> Traced:
    """Greedy unless the request says otherwise. Raises what a stream would raise, and
    `ConfigError` for an expert whose flags or model tell of no inner experts.
    """
    if not _is_told(engine):
        raise ConfigError(
            f"expert {engine.expert_id!r} does not tell which of its inner experts fire; add "
            f"`{_FLAG}: true` to its flags (needs a GPU)"
        )
    async with engine.running() as server:
        answer = await server.remote.control.chat(_body(engine, request), timeout_s)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(choice, dict) or not isinstance(text, str):
        raise UpstreamError(engine.expert_id, "sent an answer without a text")
    routed = read_routed_experts(engine.expert_id, choice)
    if routed is None:
        raise ConfigError(
            f"expert {engine.expert_id!r} has no inner experts: its server told of none; trace "
            "an expert that is a sparse mixture"
        )
    highest = int(routed.chosen.max()) if routed.chosen.size else -1
    n_experts = max(highest + 1, _declared_experts(Path(spec_of(engine.expert).model)))
    return Traced(text, _usage(engine.expert_id, answer), routed, n_experts)


def _is_told(engine: VllmEngine) -> bool:
    flags = spec_of(engine.expert).flags
    return any(
        value is True and name.lstrip("-").replace("_", "-") == _FLAG
        for name, value in flags.items()
    )


def _body(engine: VllmEngine, request: GenerationRequest) -> dict[str, object]:
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
    return body


def _usage(expert_id: str, answer: Mapping[str, Any]) -> Usage:
    match answer.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return Usage(prompt, completion)
    raise UpstreamError(expert_id, "sent an answer without a usage")


def _declared_experts(folder: Path) -> int:
    """What a model folder's configuration says; 0 for one on the hub or one that says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return 0
    config = config if isinstance(config, dict) else {}
    sizes = [config.get(name) for name in _SIZES]
    return max((size for size in sizes if isinstance(size, int)), default=0)
