"""What every server of OpenAI's protocol is asked in the same words, whoever carries them there."""

from __future__ import annotations

import os

from coe.errors import StartupError
from coe.experts import Expert
from coe.types import GenerationRequest


def chat_fields(expert: Expert, request: GenerationRequest) -> dict[str, object]:
    """The fields of a streamed chat request but for its model; what is at its default is left out
    where servers differ in whether they know it.
    """
    params = request.params
    fields: dict[str, object] = {
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "max_tokens": params.max_tokens or expert.max_tokens,
        "temperature": params.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.top_p != 1.0:
        fields["top_p"] = params.top_p
    if params.seed is not None:
        fields["seed"] = params.seed
    if params.stop:
        fields["stop"] = list(params.stop)
    return fields


def api_key(expert_id: str, variable: str | None) -> str | None:
    """The key in that environment variable; None: no key is needed. Raises `StartupError`."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise StartupError(
            expert_id, f"the environment variable {variable} with its API key is not set"
        )
    return key
