"""The items of a response's input → the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coe.service.errors import InvalidRequest
from coe.service.responses.fields import objects, optional, required, unsupported

ChatMessage = dict[str, Any]
_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")


def read_items(given: object, earlier: Sequence[Mapping[str, Any]] = ()) -> list[ChatMessage]:
    """The messages of `earlier` turns and then those that the input adds to them.

    Calls that follow each other, and the text before them, become one assistant message, as chat
    has it. Reasoning is left out: no chat takes it back. Raises `InvalidRequest`.
    """
    messages = [dict(message) for message in earlier]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise InvalidRequest(
            "input must be a string or a list of items", param="input", code="invalid_type"
        )
    # Earlier answers are complete: a call in the input begins a message of its own.
    n_before = len(messages)
    for place, item in objects(given, "input"):
        kind = "message" if item.get("type") is None else item["type"]
        if kind == "message":
            messages.append(_message(item, place))
        elif kind == "function_call":
            _add_call(_call(item, place), messages, n_before)
        elif kind == "function_call_output":
            messages.append(_call_output(item, place, messages))
        elif kind != "reasoning":
            raise unsupported(
                f"{place}.type",
                f"send message, function_call or function_call_output items, not {kind!r}",
            )
    if not messages:
        raise InvalidRequest("input needs at least one item", param="input")
    return messages


def _message(item: Mapping[str, Any], place: str) -> ChatMessage:
    role = required(item, "role", str, f"{place}.")
    if role not in _ROLES:
        raise InvalidRequest(
            f"{place}.role must be one of {', '.join(_ROLES)}, not {role!r}", param=f"{place}.role"
        )
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [
        _part(part, where)
        for where, part in objects(required(item, "content", list, f"{place}."), f"{place}.content")
    ]
    if role == "assistant" or len(parts) == 1:
        return {"role": role, "content": _joined(parts, f"{place}.content", role)}
    return {"role": role, "content": parts}


def _joined(parts: Sequence[Mapping[str, Any]], place: str, role: str) -> object:
    """One text where there is nothing but text. Experts read their own turns as text only."""
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    if role == "assistant":
        raise unsupported(place, "an assistant's turn holds text only")
    return list(parts)


def _part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": required(part, "text", str, f"{place}.")}
    if kind == "refusal":
        return {"type": "text", "text": required(part, "refusal", str, f"{place}.")}
    if kind != "input_image":
        raise unsupported(
            f"{place}.type", f"send input_text, output_text or input_image parts, not {kind!r}"
        )
    if part.get("file_id") is not None:
        raise unsupported(f"{place}.file_id", "send the image itself as image_url")
    image = {"url": required(part, "image_url", str, f"{place}.")}
    detail = optional(part, "detail", str, f"{place}.")
    return {"type": "image_url", "image_url": image | ({"detail": detail} if detail else {})}


def _call(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    function = {
        "name": required(item, "name", str, f"{place}."),
        "arguments": required(item, "arguments", str, f"{place}."),
    }
    call_id = required(item, "call_id", str, f"{place}.")
    return {"id": call_id, "type": "function", "function": function}


def _add_call(call: dict[str, Any], messages: list[ChatMessage], n_before: int) -> None:
    if len(messages) == n_before or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _call_output(
    item: Mapping[str, Any], place: str, messages: Sequence[ChatMessage]
) -> ChatMessage:
    call_id = required(item, "call_id", str, f"{place}.")
    called = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
    if call_id not in called:
        raise InvalidRequest(
            f"{place}.call_id: no function_call before it has the id {call_id!r}; send the call, "
            "too, or the previous_response_id of the response that made it",
            param=f"{place}.call_id",
        )
    output = item.get("output")
    if not isinstance(output, str):
        parts = objects(required(item, "output", list, f"{place}."), f"{place}.output")
        output = _joined([_part(part, where) for where, part in parts], f"{place}.output", "tool")
    return {"role": "tool", "tool_call_id": call_id, "content": output}
