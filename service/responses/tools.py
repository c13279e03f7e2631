"""Tools, the choice among them, and the answer's format, in chat's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coe.service.errors import InvalidRequest
from coe.service.responses.fields import objects, optional, required, unsupported

_MODES = ("none", "auto", "required")
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")
_SCHEMA_FIELDS = ("name", "description", "schema", "strict")


def chat_tools(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`tools` and `tool_choice` of a chat request, where the response request has any.

    A choice among some of the tools leaves the others out. Raises `InvalidRequest`, for tools that
    OpenAI runs itself among others.
    """
    tools = [
        _function(tool, place)
        for place, tool in objects(optional(raw, "tools", list) or (), "tools")
    ]
    choice = raw.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(choice, tools)
    elif choice is not None:
        choice = _choice(choice)
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest(
                "tool_choice needs tools to choose from; send tools", param="tool_choice"
            )
        return {}
    return {"tools": tools} | ({} if choice is None else {"tool_choice": choice})


def chat_format(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`response_format` and `verbosity` of a chat request, of what `text` says."""
    text = optional(raw, "text", dict) or {}
    fields: dict[str, Any] = {}
    verbosity = optional(text, "verbosity", str, "text.")
    if verbosity is not None:
        fields["verbosity"] = verbosity
    given = optional(text, "format", dict, "text.")
    if given is None:
        return fields
    kind = given.get("type")
    if kind == "json_object":
        fields["response_format"] = {"type": "json_object"}
    elif kind == "json_schema":
        required(given, "name", str, "text.format.")
        required(given, "schema", dict, "text.format.")
        schema = {name: given[name] for name in _SCHEMA_FIELDS if given.get(name) is not None}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind != "text":
        raise unsupported(
            "text.format.type", f"send text, json_object or json_schema, not {kind!r}"
        )
    return fields


def _function(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise unsupported(
            f"{place}.type",
            f"only function tools are, which your own program runs; leave {kind!r} out",
        )
    required(tool, "name", str, f"{place}.")
    optional(tool, "parameters", dict, f"{place}.")
    function = {name: tool[name] for name in _FUNCTION_FIELDS if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice(choice: object) -> object:
    if choice in _MODES:
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = required(choice, "name", str, "tool_choice.")
        return {"type": "function", "function": {"name": name}}
    raise unsupported("tool_choice", f"send {', '.join(_MODES)} or a function's name")


def _allowed(
    choice: Mapping[str, Any], tools: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], str]:
    mode = required(choice, "mode", str, "tool_choice.")
    if mode not in ("auto", "required"):
        raise InvalidRequest(
            f"tool_choice.mode must be auto or required, not {mode!r}", param="tool_choice.mode"
        )
    place = "tool_choice.tools"
    allowed = objects(required(choice, "tools", list, "tool_choice."), place)
    names = {required(tool, "name", str, f"{where}.") for where, tool in allowed}
    unknown = names - {tool["function"]["name"] for tool in tools}
    if unknown:
        raise InvalidRequest(f"{place} names {min(unknown)!r}, which is not in tools", param=place)
    return [tool for tool in tools if tool["function"]["name"] in names], mode
