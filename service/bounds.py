"""How much one request may ask for, whatever the expert would take.

Looked at is what costs memory or time out of proportion to the request's bytes, and what would
let a client say where the gateway sends it. Types and meanings are for others to check; only a
bounded field must be of the type that its bound is about, because an expert may read "9" as 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from coe.service.errors import InvalidRequest
from coe.service.media import check_part, check_parts
from coe.service.request_limits import RequestLimits, check_length, out_of_bounds
from coe.service.schema_bounds import check_pattern, check_schema
from coe.service.upstream_fields import (
    EXTENSIONS,
    keys_below,
    operators_field,
    refuse_upstream_fields,
)


def read_object(body: bytes, limits: RequestLimits) -> dict[str, Any]:
    """The JSON object of a body, within bounds. Raises `InvalidRequest`, and nothing else."""
    check_nesting(body, limits.max_depth)
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    check_bounds(raw, limits)
    return raw


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# By byte: what it adds to the depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def check_nesting(body: bytes, max_depth: int) -> None:
    """Refuses JSON that nests deeper, before anything parses it. Other than JSON may pass."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    # Without its escapes, every second piece between quotes is outside of strings.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(bare.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    depths = np.cumsum(_STEPS[np.frombuffer(brackets, np.uint8)], dtype=np.int32)
    if depths.max(initial=0) > max_depth:
        raise InvalidRequest(
            f"the body nests arrays and objects more than {max_depth} deep; flatten it",
            code="nested_too_deeply",
        )


def check_bounds(raw: Mapping[str, Any], limits: RequestLimits) -> None:
    """Raises `InvalidRequest`, which names the field that is out of bounds.

    For the raw body of a chat, completion, embedding or response request.
    """
    refuse_upstream_fields(raw)
    for name, value in raw.items():
        if value is not None and name in _CHECKS:
            _CHECKS[name](value, name, limits)


_Check = Callable[[Any, str, RequestLimits], None]


def _number(least: int, limit: str) -> _Check:
    def check(value: Any, place: str, limits: RequestLimits) -> None:
        most = getattr(limits, limit)
        # A float or a text would be read as a number by some experts, and True as 1.
        if type(value) is not int:
            raise out_of_bounds(place, "must be a whole number", "invalid_type")
        if not least <= value <= most:
            raise out_of_bounds(place, f"must be between {least} and {most}, not {value}")

    return check


def _length(limit: str) -> _Check:
    """Of a list, an object or a text; anything else is for others to refuse."""

    def check(value: Any, place: str, limits: RequestLimits) -> None:
        if isinstance(value, list | dict | str):
            check_length(len(value), getattr(limits, limit), place)

    return check


def _logprobs(value: Any, place: str, limits: RequestLimits) -> None:
    # A boolean in a chat request, a number in a completion request.
    if not isinstance(value, bool):
        _number(0, "max_logprobs")(value, place, limits)


def _stops(value: Any, place: str, limits: RequestLimits) -> None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        return
    check_length(len(stops), limits.max_stops, place)
    for index, stop in enumerate(stops):
        if isinstance(stop, str) and len(stop) > limits.max_stop_chars:
            check_length(len(stop), limits.max_stop_chars, f"{place}[{index}]")


def _messages(value: Any, place: str, limits: RequestLimits) -> None:
    if not isinstance(value, list):
        return
    check_length(len(value), limits.max_messages, place)
    for index, message in enumerate(value):
        if isinstance(message, dict):
            check_parts(message.get("content"), f"{place}[{index}].content", limits)


def _inputs(value: Any, place: str, limits: RequestLimits) -> None:
    # A list of token ids is one input.
    if not isinstance(value, list) or (value and type(value[0]) is int):
        return
    check_length(len(value), limits.max_inputs, place)
    for index, item in enumerate(value):
        if isinstance(item, dict):
            # An item of a response, or an input of an embedding expert that sees images.
            check_parts(item.get("content"), f"{place}[{index}].content", limits)
            check_part(item, f"{place}[{index}]", limits)


def _tools(value: Any, place: str, limits: RequestLimits) -> None:
    if not isinstance(value, list):
        return
    check_length(len(value), limits.max_tools, place)
    for index, tool in enumerate(value):
        check_schema(tool, f"{place}[{index}]", limits)


def _answer_format(value: Any, place: str, limits: RequestLimits) -> None:
    """`response_format`, `text`, `structured_outputs`: a schema, a pattern, a grammar or a list."""
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if inner is not None and name in _ANSWER_CHECKS:
            _ANSWER_CHECKS[name](inner, f"{place}.{name}", limits)
    rest = {name: inner for name, inner in value.items() if name not in _ANSWER_CHECKS}
    check_schema(rest, place, limits)


def _pattern(value: Any, place: str, limits: RequestLimits) -> None:
    if isinstance(value, str):
        check_pattern(value, place, limits)


def _schema(value: Any, place: str, limits: RequestLimits) -> None:
    if isinstance(value, str):
        # vLLM takes a schema as JSON in a text, too.
        check_length(len(value), limits.max_schema_chars, place)
        check_nesting(value.encode("utf-8", "replace"), limits.max_schema_depth)
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return
    check_schema(value, place, limits)


def _template(value: Any, place: str, limits: RequestLimits) -> None:
    if not limits.allows_chat_template:
        raise operators_field(place)


def _template_kwargs(value: Any, place: str, limits: RequestLimits) -> None:
    if limits.allows_chat_template:
        return
    for where, name in keys_below(value, place):
        if name in ("chat_template", "hf_chat_template"):
            raise operators_field(f"{where}.{name}")


def _extension(value: Any, place: str, limits: RequestLimits) -> None:
    """What a client library would have put beside the other fields is bounded like them."""
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if inner is not None and name in _CHECKS and name not in EXTENSIONS:
            _CHECKS[name](inner, f"{place}.{name}", limits)


_ANSWER_CHECKS: Mapping[str, _Check] = {
    "regex": _pattern,
    "pattern": _pattern,
    "grammar": _length("max_grammar_chars"),
    "choice": _length("max_listed_answers"),
    "json": _schema,
    "json_schema": _schema,
}
_CHECKS: Mapping[str, _Check] = {
    "messages": _messages,
    "prompt": _inputs,
    "input": _inputs,
    "n": _number(1, "max_choices"),
    "best_of": _number(1, "max_choices"),
    "max_tokens": _number(0, "max_tokens"),
    "max_completion_tokens": _number(0, "max_tokens"),
    "max_output_tokens": _number(0, "max_tokens"),
    "min_tokens": _number(0, "max_tokens"),
    "logprobs": _logprobs,
    "top_logprobs": _number(0, "max_logprobs"),
    "prompt_logprobs": _number(0, "max_logprobs"),
    "stop": _stops,
    "logit_bias": _length("max_token_ids"),
    "stop_token_ids": _length("max_token_ids"),
    "allowed_token_ids": _length("max_token_ids"),
    "bad_words": _length("max_token_ids"),
    "tools": _tools,
    "functions": _tools,
    "response_format": _answer_format,
    "text": _answer_format,
    "structured_outputs": _answer_format,
    "guided_json": _schema,
    "guided_regex": _pattern,
    "guided_grammar": _length("max_grammar_chars"),
    "guided_choice": _length("max_listed_answers"),
    "structural_tag": _schema,
    "chat_template": _template,
    "chat_template_kwargs": _template_kwargs,
    "extra_body": _extension,
    "coe": _extension,
}
