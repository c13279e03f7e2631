"""OpenAI's older completions API, spoken to experts that know chat completions.

A prompt becomes what a user says. An expert with a chat template answers it and does not go on
from it, so what only makes sense of going on (`echo`, `suffix`) is refused by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coe.service.bounds import read_object
from coe.service.errors import InvalidRequest
from coe.service.request_limits import RequestLimits
from coe.service.unsupported import is_one_of

TEXT_COMPLETION_PREFIX = "cmpl-"
"""A text completion's id is its decision's, after this."""
_DEFAULT_MAX_TOKENS = 16
# Field → the values that change nothing. Null never does.
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),
    "prompt_logprobs": (),
    "best_of": (1,),
    "prompt_embeds": (),
    "messages": (),
    "tools": ([],),
    "functions": ([],),
}
_OWN = frozenset({"prompt", "max_tokens", *_REFUSED})
_FINISH_REASONS = ("stop", "length", "content_filter")


@dataclass(frozen=True, slots=True)
class CompletionsCall:
    """One completion request, checked."""

    model: str
    chats: tuple[Mapping[str, Any], ...]
    """The body of a chat completion request for each prompt."""
    n_choices: int
    """Asked for of each prompt."""
    is_streamed: bool
    wants_usage: bool
    """Whether a stream ends with a chunk of token counts."""


def read_completions(
    body: bytes | Mapping[str, Any],
    limits: RequestLimits = RequestLimits(),  # noqa: B008  frozen
) -> CompletionsCall:
    """Raises `InvalidRequest`, which names the field that is wrong, and nothing else.

    A mapping is taken to be within the limits already.
    """
    raw = read_object(body, limits) if isinstance(body, bytes) else body
    _refuse(raw)
    model = raw.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is required", param="model", code="missing_parameter")
    prompts = _prompts(raw.get("prompt"))
    stream = raw.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream must be true or false", param="stream", code="invalid_type")
    is_streamed = bool(stream)
    options = raw.get("stream_options")
    if options is not None and not is_streamed:
        raise InvalidRequest(
            "stream_options is only allowed together with stream=true", param="stream_options"
        )
    shared = {name: value for name, value in raw.items() if name not in _OWN and value is not None}
    max_tokens = raw.get("max_tokens")
    shared["max_tokens"] = _DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    chats = tuple(
        {**shared, "messages": [{"role": "user", "content": prompt}]} for prompt in prompts
    )
    return CompletionsCall(
        model=model,
        chats=chats,
        n_choices=raw.get("n") or 1,
        is_streamed=is_streamed,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def text_completion(
    call: CompletionsCall, completion_id: str, model: str, answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`text_completion`, of the `chat.completion` of each prompt in order."""
    choices = [
        _choice(call, prompt_index, choice, choice.get("message"))
        for prompt_index, answer in enumerate(answers)
        for choice in answer["choices"]
    ]
    return {
        "id": completion_id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": _summed([answer.get("usage") for answer in answers]),
    }


class TextChunkWriter:
    """The chunks of one streamed text completion, of those of its chats.

    What all chunks share is made once. Chats of several prompts may come in turns: their choices
    are told apart by index.
    """

    def __init__(self, call: CompletionsCall, completion_id: str, model: str) -> None:
        self._call = call
        self._usages: list[Mapping[str, Any] | None] = [None] * len(call.chats)
        self._shared = {
            "id": completion_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def chunk(self, chunk: Mapping[str, Any], prompt_index: int = 0) -> dict[str, Any] | None:
        """What one parsed `chat.completion.chunk` says; None where it says nothing."""
        self._usages[prompt_index] = chunk.get("usage") or self._usages[prompt_index]
        choices = [
            _choice(self._call, prompt_index, choice, choice.get("delta"))
            for choice in chunk.get("choices") or ()
        ]
        choices = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
        if not choices:
            return None
        usage = {"usage": None} if self._call.wants_usage else {}
        return {**self._shared, "choices": choices, **usage}

    def usage(self) -> dict[str, Any]:
        """The last chunk, for whoever wants usage."""
        return {**self._shared, "choices": [], "usage": _summed(self._usages)}


def _refuse(raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if name not in _REFUSED or value is None or is_one_of(value, _REFUSED[name]):
            continue
        instead = "send prompt" if name == "messages" else "leave it out"
        if name in ("tools", "functions", "logprobs"):
            instead = "leave it out, or ask /v1/chat/completions"
        raise InvalidRequest(
            f"{name} is not supported here: the prompt is answered as a chat; {instead}",
            param=name,
            code="unsupported_parameter",
        )


def _prompts(prompt: object) -> Sequence[str]:
    if prompt is None:
        raise InvalidRequest("prompt is required", param="prompt", code="missing_parameter")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest(
            "prompt must be a string or a list of strings", param="prompt", code="invalid_type"
        )
    for index, one in enumerate(prompt):
        if not isinstance(one, str):
            raise InvalidRequest(
                f"prompt[{index}] must be a string; tokens are each expert's own, send the text",
                param=f"prompt[{index}]",
                code="invalid_type",
            )
    return prompt


def _choice(
    call: CompletionsCall,
    prompt_index: int,
    choice: Mapping[str, Any],
    said: Mapping[str, Any] | None,
) -> dict[str, Any]:
    said = said or {}
    reason = choice.get("finish_reason")
    return {
        "index": prompt_index * call.n_choices + (choice.get("index") or 0),
        "text": said.get("content") or said.get("refusal") or "",
        "logprobs": None,
        "finish_reason": reason if reason is None or reason in _FINISH_REASONS else "stop",
    }


def _summed(usages: Sequence[Mapping[str, Any] | None]) -> dict[str, int] | None:
    """None unless every prompt's tokens were counted."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counted = [usage for usage in usages if usage is not None]
    if len(counted) < len(usages):
        return None
    return {name: sum(usage.get(name) or 0 for usage in counted) for name in names}
