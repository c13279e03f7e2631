from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.service.errors import InvalidRequest
from coe.service.responses.request import Earlier, ResponsesCall, read_responses

TOOL = {
    "type": "function",
    "name": "add",
    "description": "adds",
    "parameters": {"type": "object"},
    "strict": True,
}
CHAT_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object"},
        "strict": True,
    },
}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
BOTH_CALLS = [CHAT_CALL, CHAT_CALL | {"id": "c2"}]
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}


def read(given: Any = "hi", earlier: Earlier | None = None, **fields: Any) -> ResponsesCall:
    return read_responses({"model": "coe", "input": given, **fields}, earlier)


def messages(given: Any, **fields: Any) -> Any:
    return read(given, **fields).chat["messages"]


def test_read_responses_makes_a_text_a_user_turn() -> None:
    call = read_responses(orjson.dumps({"model": "coe", "input": "hi", "temperature": None}))
    assert call.chat == {"model": "coe", "messages": [{"role": "user", "content": "hi"}]}
    assert call.turns == ({"role": "user", "content": "hi"},)
    assert (call.model, call.is_streamed, call.is_stored) == ("coe", False, True)


def test_read_responses_puts_instructions_first_and_keeps_them_out_of_the_turns() -> None:
    call = read(instructions="Be kind.", store=False)
    assert call.chat["messages"][0] == {"role": "system", "content": "Be kind."}
    assert call.turns == ({"role": "user", "content": "hi"},)
    assert not call.is_stored


def test_read_responses_reads_messages_and_their_parts() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    given = [
        {"role": "developer", "content": "Be kind."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "look"}, image],
        },
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "a ", "annotations": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "why?"}]},
    ]
    assert messages(given) == [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {
                    "type": "image_url",
                    "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
                },
            ],
        },
        {"role": "assistant", "content": "a no"},
        {"role": "user", "content": "why?"},
    ]


def test_read_responses_joins_calls_and_the_text_before_them() -> None:
    second = {**CALL, "call_id": "c2"}
    output = {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]}
    given = [
        {"role": "user", "content": "add"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": "adding"},
        CALL,
        second,
        OUTPUT,
        output,
        {**CALL, "call_id": "c3"},
    ]
    assert messages(given, tools=[TOOL])[1:] == [
        {"role": "assistant", "content": "adding", "tool_calls": BOTH_CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "3"},
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL | {"id": "c3"}]},
    ]


def test_read_responses_goes_on_from_an_earlier_response() -> None:
    kept: list[dict[str, Any]] = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
    ]
    before = orjson.dumps(kept)
    call = read(
        [OUTPUT, {**CALL, "call_id": "c2"}],
        lambda _: kept,
        previous_response_id="resp_1",
        instructions="Be kind.",
    )
    assert call.chat["messages"] == [
        {"role": "system", "content": "Be kind."},
        *kept,
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL | {"id": "c2"}]},
    ]
    assert call.turns == tuple(call.chat["messages"][1:])
    read([{**CALL, "call_id": "c2"}], lambda _: kept, previous_response_id="resp_1")
    assert orjson.dumps(kept) == before, "what is kept was changed"


@pytest.mark.parametrize("earlier", [None, lambda _: None])
def test_read_responses_says_that_an_earlier_response_is_not_kept(earlier: Earlier | None) -> None:
    with pytest.raises(InvalidRequest, match="send the whole conversation") as caught:
        read("hi", earlier, previous_response_id="resp_1")
    assert caught.value.code == "previous_response_not_found"


def test_read_responses_translates_what_chat_says_otherwise() -> None:
    schema = {"type": "object", "properties": {}}
    call = read(
        tools=[TOOL],
        tool_choice={"type": "function", "name": "add"},
        parallel_tool_calls=False,
        text={
            "format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True},
            "verbosity": "low",
        },
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=9,
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        top_logprobs=2,
        temperature=0.5,
        top_k=4,
        seed=1,
        prompt_cache_key="k",
        metadata={"a": "b"},
        truncation="disabled",
        stream=True,
    )
    assert {name: value for name, value in call.chat.items() if name != "messages"} == {
        "model": "coe",
        "tools": [CHAT_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": schema, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "low",
        "max_completion_tokens": 9,
        "logprobs": True,
        "top_logprobs": 2,
        "temperature": 0.5,
        "top_k": 4,
        "seed": 1,
        "prompt_cache_key": "k",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert call.is_streamed
    assert call.echoed["metadata"] == {"a": "b"}
    assert call.echoed["tools"] == [TOOL]
    assert call.echoed["text"]["format"]["schema"] == schema


def test_read_responses_leaves_out_the_tools_that_are_not_allowed() -> None:
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "add"}],
    }
    call = read(tools=[TOOL, {**TOOL, "name": "other"}], tool_choice=choice)
    assert call.chat["tools"] == [CHAT_TOOL]
    assert call.chat["tool_choice"] == "required"
    assert len(call.echoed["tools"]) == 2


def test_read_responses_sends_nothing_of_tools_where_there_are_none() -> None:
    call = read(tools=[], tool_choice="auto", parallel_tool_calls=True, text={"format": None})
    assert call.chat.keys() == {"model", "messages"}


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


def part(**fields: Any) -> dict[str, Any]:
    return item(role="user", content=[fields])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"]}, "input[0]"),
        (item(type="web_search_call"), "input[0].type"),
        (item(type="item_reference", id="msg_1"), "input[0].type"),
        (item(role="tool", content="a"), "input[0].role"),
        (item(role="user"), "input[0].content"),
        (item(role="user", content=3), "input[0].content"),
        (item(**CALL | {"name": None}), "input[0].name"),
        (item(**OUTPUT), "input[0].call_id"),
        (part(type="input_file", file_id="f"), "input[0].content[0].type"),
        (part(type="input_image", file_id="f"), "input[0].content[0].file_id"),
        (part(type="input_image"), "input[0].content[0].image_url"),
        (part(type="input_text", text=1), "input[0].content[0].text"),
        ({"instructions": ["a"]}, "instructions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "mcp"}]}, "tools[1].type"),
        ({"tools": [CHAT_TOOL]}, "tools[0].name"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "x"}]},
            },
            "tool_choice.tools",
        ),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"reasoning": "high"}, "reasoning"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"response_format": {}}, "response_format"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
    ],
)
def test_read_responses_names_what_is_wrong(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_responses({"model": "coe", "input": "hi", **fields})
    assert caught.value.param == param
    assert param in str(caught.value)


def test_read_responses_tells_the_field_of_this_api() -> None:
    with pytest.raises(InvalidRequest, match="send max_output_tokens"):
        read(max_tokens=3)


def test_read_responses_keeps_bytes_within_bounds() -> None:
    with pytest.raises(InvalidRequest, match="max_output_tokens must be between"):
        read_responses(b'{"model": "coe", "input": "a", "max_output_tokens": 9999999}')


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
VALID_ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"role": "assistant", "content": "b"},
    CALL,
    OUTPUT,
]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    index=st.integers(0, len(VALID_ITEMS) - 1),
    field=st.sampled_from(["type", "role", "content", "call_id", "name", "arguments", "output"]),
    junk=JUNK,
    fields=st.dictionaries(
        st.sampled_from(
            ["tools", "tool_choice", "text", "reasoning", "include", "metadata", "stream", "model"]
        ),
        JUNK,
        max_size=2,
    ),
)
def test_read_responses_takes_any_damage_or_explains_it(
    index: int, field: str, junk: Any, fields: dict[str, Any]
) -> None:
    items = [dict(one) for one in VALID_ITEMS]
    items[index][field] = junk
    body = {"model": "coe", "input": items, "tools": [TOOL], **fields}
    try:
        said = read_responses(body).chat["messages"]
    except InvalidRequest as error:
        said = [error.param]
    assert said[0]
