from __future__ import annotations

import json
from typing import Any

import pytest

from coe.service.errors import InvalidRequest
from coe.service.wire import read_chat
from coe.types import Message, SamplingParams

USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "coe", "messages": [USER], **fields}).encode()


def test_read_chat_defaults_to_one_greedy_whole_answer() -> None:
    call = read_chat(body())
    assert call.model == "coe"
    assert call.generation.messages == (Message("user", "hi"),)
    assert call.generation.params == SamplingParams(max_tokens=None, temperature=0.0)
    assert not call.is_streamed
    assert not call.wants_usage


def test_read_chat_passes_sampling_on() -> None:
    call = read_chat(
        body(temperature=1, top_p=0.5, seed=-3, stop=["a", "b"], max_tokens=5, stream=True)
    )
    assert call.generation.params == SamplingParams(5, 1.0, 0.5, -3, ("a", "b"))
    assert call.is_streamed
    assert not call.wants_usage


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
        ({"max_tokens": None}, None),
    ],
)
def test_read_chat_takes_either_name_of_max_tokens(
    fields: dict[str, Any], max_tokens: int | None
) -> None:
    assert read_chat(body(**fields)).generation.params.max_tokens == max_tokens


def test_read_chat_takes_one_stop_string() -> None:
    assert read_chat(body(stop="END")).generation.params.stop == ("END",)


def test_read_chat_joins_text_parts_without_a_separator() -> None:
    parts = [{"type": "text", "text": "12 "}, {"type": "text", "text": "+ 30"}]
    call = read_chat(body(messages=[{"role": "user", "content": parts}]))
    assert call.generation.messages == (Message("user", "12 + 30"),)


def test_read_chat_takes_developer_for_system() -> None:
    call = read_chat(body(messages=[{"role": "developer", "content": "be brief"}, USER]))
    assert call.generation.messages[0] == Message("system", "be brief")


def test_read_chat_wants_usage_where_stream_options_say_so() -> None:
    call = read_chat(body(stream=True, stream_options={"include_usage": True}))
    assert call.wants_usage


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"some_new_field": {"deep": [1]}},
        {"parallel_tool_calls": True, "tools": [], "tool_choice": "none"},
        {"n": 1, "logprobs": False, "response_format": {"type": "text"}, "modalities": ["text"]},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "audio": None},
        {"temperature": None, "top_p": None, "seed": None, "stop": None, "stream": None},
        {
            "messages": [
                {**USER, "name": "ann"},
                {"role": "assistant", "content": "", "refusal": None},
            ]
        },
    ],
)
def test_read_chat_ignores_what_changes_nothing(fields: dict[str, Any]) -> None:
    assert read_chat(body(**fields)).generation.params == SamplingParams()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_parameter"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [USER, {"role": "user", "content": None}]},
            "messages[1].content",
            "invalid_type",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "unsupported_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
        ({"model": None}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": "m" * 300}, "model", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": "0"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": 0}, "n", "unsupported_parameter"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop[0]", "invalid_value"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"stop": 1}, "stop", "invalid_type"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"include_usage": "x"}},
            "stream_options.include_usage",
            "invalid_type",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"function_call": {"name": "f"}}, "function_call", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"audio": {"voice": "v"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"frequency_penalty": -1}, "frequency_penalty", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"top_k": 40}, "top_k", "unsupported_parameter"),
        ({"min_p": 0.1}, "min_p", "unsupported_parameter"),
        ({"guided_json": {}}, "guided_json", "unsupported_parameter"),
    ],
)
def test_read_chat_names_the_field_that_is_wrong(
    fields: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(body(**fields))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in str(caught.value)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_read_chat_requires_model_and_messages(name: str) -> None:
    given = {"model": "coe", "messages": [USER]}
    del given[name]
    with pytest.raises(InvalidRequest, match=f"{name} is required") as caught:
        read_chat(json.dumps(given).encode())
    assert caught.value.param == name


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"[" * 5000]
)
def test_read_chat_refuses_what_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(raw)
    assert caught.value.code == "invalid_json"
