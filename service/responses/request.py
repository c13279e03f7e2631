"""A request of the Responses API → a chat completion request.

What both APIs call by the same name and mean alike (`temperature`, `seed`, what vLLM adds) is
passed on as it came. What only this one has is translated; what has no translation and would
change the answer is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coe.service.bounds import read_object
from coe.service.errors import InvalidRequest
from coe.service.request_limits import RequestLimits
from coe.service.responses.fields import optional, required, unsupported
from coe.service.responses.items import ChatMessage, read_items
from coe.service.responses.tools import chat_format, chat_tools
from coe.service.unsupported import is_one_of

Earlier = Callable[[str], Sequence[Mapping[str, Any]] | None]
"""The messages up to and with the response of an id, its answer last; None: not known."""

# Chat's name → this API's.
MISNAMED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "functions": "tools",
    "function_call": "tool_choice",
    "logprobs": 'include: ["message.output_text.logprobs"]',
}
# Field → the values that change nothing. Null never does.
_REFUSED: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "truncation": ("disabled",),
    "context_management": ([],),
    "moderation": (),
    "n": (1,),
    "best_of": (1,),
}
_OWN_NAMES = """
    model input instructions max_output_tokens max_tool_calls tools tool_choice text reasoning
    metadata previous_response_id store stream stream_options include top_logprobs
    prompt_cache_retention
"""
_NOT_PASSED = frozenset(_OWN_NAMES.split()) | _REFUSED.keys()
_LOGPROBS = "message.output_text.logprobs"
# Reasoning is told in the open, so that nothing has to be carried back encrypted.
_INCLUDABLE = (_LOGPROBS, "reasoning.encrypted_content")
# What the response repeats, and of which type it has to be.
_ECHOED: Mapping[str, type] = {
    "instructions": str,
    "max_output_tokens": int,
    "max_tool_calls": int,
    "previous_response_id": str,
    "prompt_cache_key": str,
    "safety_identifier": str,
    "temperature": object,
    "top_p": object,
    "user": str,
}
_MAX_METADATA = 16
_MAX_METADATA_KEY_CHARS = 64
_MAX_METADATA_CHARS = 512


@dataclass(frozen=True, slots=True)
class ResponsesCall:
    """One request of the Responses API, checked."""

    model: str
    chat: Mapping[str, Any]
    """The body of the chat completion request that answers it."""
    turns: tuple[ChatMessage, ...]
    """The conversation without the instructions, which hold for one response only."""
    echoed: Mapping[str, Any]
    """What the response repeats of the request."""
    is_streamed: bool
    is_stored: bool
    """Whether a later request may name the response as the one before it."""


def read_responses(
    body: bytes | Mapping[str, Any],
    earlier: Earlier | None = None,
    limits: RequestLimits = RequestLimits(),  # noqa: B008  frozen
) -> ResponsesCall:
    """Raises `InvalidRequest`, which names the field that is wrong, and nothing else.

    A mapping is taken to be within the limits already. Without `earlier` no response is known.
    """
    raw = read_object(body, limits) if isinstance(body, bytes) else body
    _refuse(raw)
    model = required(raw, "model", str)
    if "input" not in raw:
        raise InvalidRequest("input is required", param="input", code="missing_parameter")
    turns = read_items(raw["input"], _earlier_turns(raw, earlier))
    instructions = optional(raw, "instructions", str)
    system = [] if instructions is None else [{"role": "system", "content": instructions}]
    is_streamed = bool(optional(raw, "stream", bool))
    chat: dict[str, Any] = {
        name: value for name, value in raw.items() if name not in _NOT_PASSED and value is not None
    }
    chat |= {"model": model, "messages": [*system, *turns], **_translated(raw)}
    if "tools" not in chat:
        # Experts refuse it where there is nothing to call.
        chat.pop("parallel_tool_calls", None)
    if is_streamed:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return ResponsesCall(
        model=model,
        chat=chat,
        turns=tuple(turns),
        echoed=_echoed(raw),
        is_streamed=is_streamed,
        is_stored=optional(raw, "store", bool) is not False,
    )


def _refuse(raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if value is None:
            continue
        if name in MISNAMED:
            raise InvalidRequest(
                f"{name} is a field of chat completions; send {MISNAMED[name]}",
                param=name,
                code="unsupported_parameter",
            )
        if name in _REFUSED and not is_one_of(value, _REFUSED[name]):
            raise unsupported(name, "leave it out")


def _earlier_turns(raw: Mapping[str, Any], earlier: Earlier | None) -> Sequence[Mapping[str, Any]]:
    response_id = optional(raw, "previous_response_id", str)
    if response_id is None:
        return ()
    turns = None if earlier is None else earlier(response_id)
    if turns is None:
        raise InvalidRequest(
            f"no response {response_id!r} is kept here, or no longer; send the whole conversation "
            "as input",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return turns


def _translated(raw: Mapping[str, Any]) -> dict[str, Any]:
    fields = chat_tools(raw) | chat_format(raw)
    max_tokens = optional(raw, "max_output_tokens", int)
    if max_tokens is not None:
        fields["max_completion_tokens"] = max_tokens
    effort = optional(optional(raw, "reasoning", dict) or {}, "effort", str, "reasoning.")
    if effort is not None:
        fields["reasoning_effort"] = effort
    include = optional(raw, "include", list) or []
    for index, name in enumerate(include):
        if name not in _INCLUDABLE:
            raise unsupported(f"include[{index}]", f"only {', '.join(_INCLUDABLE)} is known")
    n_logprobs = optional(raw, "top_logprobs", int)
    if _LOGPROBS in include or n_logprobs:
        fields |= {"logprobs": True, "top_logprobs": n_logprobs or 0}
    return fields


def _echoed(raw: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = raw.get("reasoning") or {}
    echoed = {name: optional(raw, name, kind) for name, kind in _ECHOED.items()}
    tools = [{"parameters": None, "strict": None, **tool} for tool in raw.get("tools") or ()]
    return {
        **echoed,
        "background": False,
        "metadata": _metadata(raw),
        "parallel_tool_calls": optional(raw, "parallel_tool_calls", bool) is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": raw.get("store") is not False,
        "text": {"format": {"type": "text"}, **(raw.get("text") or {})},
        "tool_choice": raw.get("tool_choice") or "auto",
        "tools": tools,
        "top_logprobs": raw.get("top_logprobs") or 0,
        "truncation": "disabled",
    }


def _metadata(raw: Mapping[str, Any]) -> dict[str, str]:
    metadata = optional(raw, "metadata", dict) or {}
    if len(metadata) > _MAX_METADATA:
        raise InvalidRequest(f"metadata takes {_MAX_METADATA} pairs at most", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise InvalidRequest(
                f"metadata.{key} must be a string", param=f"metadata.{key}", code="invalid_type"
            )
        if len(key) > _MAX_METADATA_KEY_CHARS or len(value) > _MAX_METADATA_CHARS:
            raise InvalidRequest(
                f"metadata takes keys of {_MAX_METADATA_KEY_CHARS} and values of "
                f"{_MAX_METADATA_CHARS} characters at most",
                param="metadata",
            )
    return metadata
