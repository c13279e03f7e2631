from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.service.bounds import check_bounds, check_nesting, read_object
from coe.service.errors import InvalidRequest
from coe.service.patterns import MOST_STATES, pattern_trouble
from coe.service.request_limits import RequestLimits

LIMITS = RequestLimits()
ORDINARY: dict[str, Any] = {
    "model": "coe",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * 3}] * 20,
    "n": 1,
    "max_tokens": 256,
    "temperature": 0.2,
    "stop": ["\n\n", "END"],
    "logprobs": True,
    "top_logprobs": 5,
    "logit_bias": {"50256": -100},
    "metadata": {"headers": "mine", "api_base": "mine"},
    "user": None,
    "stream": True,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "fetch",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "headers": {"type": "object"},
                        "api_key": {"type": "string", "pattern": r"^sk-[a-z0-9]{8,64}$"},
                        "pattern": {"type": "string", "maxLength": 100},
                    },
                },
            },
        }
    ],
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "chat_template_kwargs": {"enable_thinking": False},
    "extra_body": {"top_k": 5},
    "coe": {"experts": ["a"]},
}


def complaint(raw: dict[str, Any], limits: RequestLimits = LIMITS) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check_bounds(raw, limits)
    assert caught.value.param is not None
    assert str(caught.value).startswith(caught.value.param)
    return caught.value


def test_check_bounds_lets_an_ordinary_request_through() -> None:
    assert read_object(orjson.dumps(ORDINARY), LIMITS) == ORDINARY


NESTED_QUANTIFIERS = '{"pattern": "(a+)+"}'


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": fields}}


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"items": value}
    return value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"n": "9"}, "n"),
        ({"n": 1e9}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 100}, "best_of"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_completion_tokens": 2**20}, "max_completion_tokens"),
        ({"max_output_tokens": 2**20}, "max_output_tokens"),
        ({"min_tokens": 2**20}, "min_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", "b" * 257]}, "stop[1]"),
        ({"stop": "b" * 257}, "stop[0]"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids"),
        ({"bad_words": ["a"] * 1025}, "bad_words"),
        ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"messages": [{}] * 2049}, "messages"),
        ({"messages": [{}, {"content": [{}] * 257}]}, "messages[1].content"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"input": ["a"] * 2049}, "input"),
        ({"tools": [{}] * 129}, "tools"),
        ({"tools": [{}, nested(40)]}, "tools[1]"),
        ({"tools": [{"parameters": {"enum": ["a"] * 5000}}]}, "tools[0]"),
        ({"tools": [{"description": "a" * 70_000}]}, "tools[0]"),
        ({"functions": [nested(40)]}, "functions[0]"),
        ({"response_format": schema(enum=["a"] * 5000)}, "response_format.json_schema"),
        (
            {"response_format": schema(pattern="(a+)+")},
            "response_format.json_schema: pattern",
        ),
        (
            {"response_format": schema(patternProperties={"(a*)*": {}})},
            "response_format.json_schema: patternProperties",
        ),
        ({"response_format": schema(maxItems=10**9)}, "response_format.json_schema: maxItems"),
        ({"text": {"format": {"schema": {"pattern": "(a+)+"}}}}, "text: pattern"),
        ({"structured_outputs": {"regex": "a" * 1025}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "a" * 20_000}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"choice": ["a"] * 1025}}, "structured_outputs.choice"),
        ({"structured_outputs": {"json": NESTED_QUANTIFIERS}}, "structured_outputs.json: pattern"),
        ({"guided_regex": "(a+)+"}, "guided_regex"),
        ({"guided_json": nested(40)}, "guided_json"),
        ({"guided_grammar": "a" * 20_000}, "guided_grammar"),
        ({"guided_choice": ["a"] * 1025}, "guided_choice"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": ""}}, "chat_template_kwargs.chat_template"),
        ({"extra_body": {"n": 99}}, "extra_body.n"),
        ({"coe": {"chat_template": "x"}}, "coe.chat_template"),
        ({"api_base": "http://169.254.169.254"}, "api_base"),
        ({"API-Base": "x"}, "API-Base"),
        ({"base_url": None}, "base_url"),
        ({"aws_access_key_id": "x"}, "aws_access_key_id"),
        ({"kv_transfer_params": {"remote_host": "x"}}, "kv_transfer_params"),
        ({"extra_body": {"a": [{"Extra-Headers": {}}]}}, "extra_body.a[0].Extra-Headers"),
        ({"coe": {"fallbacks": ["x"]}}, "coe.fallbacks"),
    ],
)  # fmt: skip
def test_check_bounds_names_what_is_out_of_bounds(fields: dict[str, Any], param: str) -> None:
    assert complaint({"model": "coe", **fields}).param == param


@pytest.mark.parametrize(
    "name",
    """api_base base_url api_key user_config model_list fallbacks mock_response headers
    custom_llm_provider extra_headers litellm_params azure_endpoint vertex_credentials
    """.split(),  # noqa: SIM905  names, not data
)
@pytest.mark.parametrize("place", ["", "extra_body", "coe"])
def test_check_bounds_refuses_to_let_a_client_choose_the_upstream(name: str, place: str) -> None:
    fields = {place: {"deep": {name: "x"}}} if place else {name: "x"}
    error = complaint({"model": "coe", **fields})
    assert error.param == (f"{place}.deep.{name}" if place else name)
    assert error.code == "unsupported_parameter"


def test_check_bounds_takes_what_an_operator_allows() -> None:
    allowed = replace(LIMITS, allows_chat_template=True, max_choices=99)
    check_bounds({"chat_template": "x", "chat_template_kwargs": {"chat_template": "y"}}, allowed)
    check_bounds({"n": 99}, allowed)
    assert complaint({"n": 100}, allowed).param == "n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "messages n stop tools response_format text logprobs structured_outputs prompt input coe "
    "extra_body chat_template_kwargs guided_json guided_regex logit_bias structural_tag"
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(raw=st.dictionaries(st.sampled_from(FIELDS.split()) | st.text(max_size=5), JSON, max_size=5))
def test_check_bounds_takes_any_json_or_complains(raw: dict[str, Any]) -> None:
    param: str | None = "none wrong"
    try:
        check_bounds(raw, LIMITS)
    except InvalidRequest as error:
        param = error.param
    assert param


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


TRICKY = st.text('[]{}"\\,: a', max_size=8)
NESTED = st.recursive(
    TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(value=NESTED)
def test_check_nesting_counts_brackets_outside_of_strings(value: Any) -> None:
    depth = depth_of(value)
    for body in (json.dumps(value).encode(), json.dumps(value, indent=1).encode()):
        check_nesting(body, depth)
        if depth:
            with pytest.raises(InvalidRequest, match="deep"):
                check_nesting(body, depth - 1)


def test_check_nesting_comes_before_the_parser() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_object(b'{"a":' + b"[" * 100_000, LIMITS)
    assert caught.value.code == "nested_too_deeply"
    at_most = b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"
    assert read_object(at_most, LIMITS)


@pytest.mark.parametrize("body", [b"", b"[]", b"nope", b"]" * 99 + b"[" * 60, b'"' * 99, b"\\" * 9])
def test_read_object_complains_of_what_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_object(body, LIMITS)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b'[{"a":' * 500_000,
        b"[]" * 1_500_000,
        b'"' * 3_000_000,
        b"\\" * 3_000_000,
        b'["a",' * 600_000,
    ],
)
def test_check_nesting_takes_time_in_proportion_at_most(body: bytes) -> None:
    def checked() -> None:
        try:
            check_nesting(body, 64)
        except InvalidRequest:
            return

    assert _seconds(checked) < 3


def _seconds(call: Callable[[], None]) -> float:
    begun_s = time.process_time()
    call()
    return time.process_time() - begun_s


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+",
        r"^(\w+\s?)*$",
        r"(?:a*)*",
        r"(?P<x>a*){2,}",
        r"((a|b+)c?)+",
        r"(a{1,}b)*",
        r"([^)]+)*",
        r"(\)+)*",
        r"((((a+))))+",
        r"(a+)+" * 3,
    ],
)
def test_pattern_trouble_sees_unbounded_repetition_within_another(pattern: str) -> None:
    assert "without bound" in str(pattern_trouble(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"^[a-z0-9]+(-[a-z0-9]{1,16}){0,8}$",
        r"a+b+c*",
        r"(a|b)+",
        r"(ab?)+",
        r"[(+*]+",
        r"[]+*]+x",
        r"[^]+*]*x",
        r"\(a+\)+",
        r"(\+\*)+",
        r"a+?b*?",
        r"{a}+",
        r"(?:ab)+(?=c)",
        r"\d{4}-\d{2}",
        r"((a",
        r"a)))",
        r"a+{",
        "\\",
        "[",
        "(?",
    ],
)
def test_pattern_trouble_lets_what_is_safe_or_no_pattern_through(pattern: str) -> None:
    assert pattern_trouble(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "a{100000}",
        "a{99}{99}{99}",
        "((a{99}){99}){99}",
        "(a{0,200}b){0,200}",
        "(" * 9 + "a" + "){9}" * 9,
    ],
)
def test_pattern_trouble_writes_counted_repetitions_out(pattern: str) -> None:
    assert str(MOST_STATES) in str(pattern_trouble(pattern))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(pattern=st.text(r"ab()[]{}*+?|\^$,.:<>=!P0123456789", max_size=40))
def test_pattern_trouble_reads_any_text(pattern: str) -> None:
    trouble = pattern_trouble(pattern)
    assert trouble is None or trouble.startswith(("repeats", "comes"))
