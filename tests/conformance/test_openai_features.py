"""What the official client can ask for, asked of experts that are servers, on real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
ARGUMENTS = {"a": 42, "b": 42}
PIXEL = "data:image/png;base64," + base64.b64encode(b"not much of an image").decode()


class Sum(BaseModel):
    total: int
    unit: str


def said(text: Any = "features one two") -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def ai(features: Any) -> openai.OpenAI:
    client: openai.OpenAI = features.client
    return client


def test_client_gets_a_whole_answer_of_a_server(ai: openai.OpenAI) -> None:
    raw = ai.chat.completions.with_raw_response.create(
        model="coe", messages=said(), extra_headers={"x-request-id": "mine-1"}
    )
    completion = raw.parse()
    assert completion.choices[0].message.content == "features one two"
    assert completion.system_fingerprint == "fp_features"
    assert raw.headers["x-coe-expert"] == "features"
    assert raw.headers["x-coe-router"] == "named/top-1"
    assert raw.headers["x-request-id"] == "mine-1"
    assert raw.headers["content-type"] == "application/json"


def test_client_streams_an_answer_of_a_server(ai: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with ai.chat.completions.with_streaming_response.create(
        model="coe", messages=said(), stream=True, stream_options=options
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = list(response.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "features one two"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 3


def test_client_has_its_tool_called_and_goes_on(ai: openai.OpenAI, features: Any) -> None:
    asked = ai.chat.completions.create(model="coe", messages=said(), tools=[TOOL])
    assert asked.choices[0].finish_reason == "tool_calls"
    message = asked.choices[0].message
    assert message.tool_calls
    call: Any = message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", ARGUMENTS)
    turns: Any = [*said(), message, {"role": "tool", "tool_call_id": call.id, "content": "84"}]
    answer = ai.chat.completions.create(model="coe", messages=turns, tools=[TOOL])
    assert answer.choices[0].message.content == "84"
    sent = features.server.asked[-1][1]["messages"][1]
    assert sent["tool_calls"][0]["id"] == call.id


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("none", "stop"), ("auto", "tool_calls"), ("required", "tool_calls")],
)
def test_client_says_whether_a_tool_is_to_be_called(
    ai: openai.OpenAI, choice: Any, reason: str
) -> None:
    completion = ai.chat.completions.create(
        model="coe", messages=said(), tools=[TOOL], tool_choice=choice
    )
    assert completion.choices[0].finish_reason == reason


def test_client_streams_the_call_of_a_tool(ai: openai.OpenAI) -> None:
    with ai.chat.completions.stream(model="coe", messages=said(), tools=[TOOL]) as stream:
        events = list(stream)
    done: Any = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [ARGUMENTS]
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert len(deltas) > 1
    final = stream.get_final_completion().choices[0].message.tool_calls
    assert final
    assert final[0].function.parsed_arguments == ARGUMENTS


def test_client_gets_an_answer_parsed_into_its_type(ai: openai.OpenAI, features: Any) -> None:
    completion = ai.chat.completions.parse(model="coe", messages=said(), response_format=Sum)
    assert completion.choices[0].message.parsed == Sum(total=42, unit="text")
    wanted = features.server.asked[-1][1]["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    with ai.chat.completions.stream(model="coe", messages=said(), response_format=Sum) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Sum(total=42, unit="text")


def test_client_gets_any_json_object(ai: openai.OpenAI) -> None:
    completion = ai.chat.completions.create(
        model="coe", messages=said(), response_format={"type": "json_object"}
    )
    assert json.loads(completion.choices[0].message.content or "") == {"ok": True}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_client_gets_logprobs(ai: openai.OpenAI, is_streamed: bool) -> None:
    asked: Any = {"model": "coe", "messages": said(), "logprobs": True, "top_logprobs": 2}
    if is_streamed:
        chunks = ai.chat.completions.create(**asked, stream=True)
        found = [c.choices[0].logprobs.content for c in chunks if c.choices[0].logprobs]
        tokens = [token for content in found for token in content]
    else:
        completion = ai.chat.completions.create(**asked)
        tokens = completion.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["features", " one", " two"]
    assert [len(token.top_logprobs) for token in tokens] == [2, 2, 2]


def test_client_gets_several_choices(ai: openai.OpenAI) -> None:
    completion = ai.chat.completions.create(model="coe", messages=said("features"), n=2, seed=7)
    texts = [choice.message.content for choice in completion.choices]
    assert texts == ["features seed 7", "features seed 7 choice 1"]
    chunks = list(
        ai.chat.completions.create(model="coe", messages=said("features"), n=2, stream=True)
    )
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}


def test_client_stops_and_bounds_an_answer(ai: openai.OpenAI) -> None:
    stopped = ai.chat.completions.create(model="coe", messages=said(), stop=[" two"])
    assert stopped.choices[0].message.content == "features one"
    cut = ai.chat.completions.create(model="coe", messages=said(), max_completion_tokens=1)
    assert cut.choices[0].message.content == "features"
    assert cut.choices[0].finish_reason == "length"


def test_client_shows_an_image(ai: openai.OpenAI, features: Any) -> None:
    parts = [
        {"type": "text", "text": "features"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    completion = ai.chat.completions.create(model="coe", messages=said(parts))
    assert completion.choices[0].message.content == "features with 1 image"
    assert features.server.asked[-1][1]["messages"][0]["content"] == parts


def test_client_sends_what_the_protocol_does_not_know(ai: openai.OpenAI, features: Any) -> None:
    extra: Any = {"guided_choice": ["a", "b"], "coe": {"priority": 3}}
    ai.chat.completions.create(model="features", messages=said(), extra_body=extra)
    assert features.server.asked[-1][1]["guided_choice"] == ["a", "b"]
    assert "coe" not in features.server.asked[-1][1]


def test_client_has_prompts_completed(ai: openai.OpenAI) -> None:
    one = ai.completions.create(model="coe", prompt="features", echo=True)
    assert one.choices[0].text == "featuresafter features"
    several = ai.completions.create(model="coe", prompt=["features", "two"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    chunks = ai.completions.create(model="features", prompt="now", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "after now"


def test_client_gets_embeddings(ai: openai.OpenAI, features: Any) -> None:
    # The client asks for base64 unless told otherwise, and decodes it.
    found = ai.embeddings.create(model="features", input=["a", "bcd"], dimensions=2)
    assert [one.embedding for one in found.data] == [[1.0, 0.0], [3.0, 0.0]]
    assert features.server.asked[-1][1]["encoding_format"] == "base64"
    plain = ai.embeddings.create(model="features", input="abcd", encoding_format="float")
    assert plain.data[0].embedding == [4.0, 0.0, 0.0, 0.0]


def test_client_gets_a_response_and_goes_on_from_it(ai: openai.OpenAI) -> None:
    first = ai.responses.create(model="coe", input="features one")
    assert first.output_text == "features one"
    again = ai.responses.create(model="features", input="and", previous_response_id=first.id)
    assert again.output_text == "and"
    assert ai.responses.retrieve(first.id).output_text == "features one"
    ai.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        ai.responses.retrieve(first.id)


def test_client_gets_a_response_parsed_into_its_type(ai: openai.OpenAI) -> None:
    response = ai.responses.parse(model="coe", input="features", text_format=Sum)
    assert response.output_parsed == Sum(total=42, unit="text")


def test_client_streams_a_response_that_calls_a_tool(ai: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **TOOL["function"]}
    with ai.responses.stream(model="coe", input="features", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.function_call_arguments.delta" in kinds
    assert final.output[0].parsed_arguments == ARGUMENTS


async def test_client_asks_many_things_at_once(features: Any) -> None:
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(
            base_url=f"{features.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):

        async def call(number: int) -> str | None:
            completion = await client.chat.completions.create(
                model="features", messages=said(f"number {number}")
            )
            return completion.choices[0].message.content

        async def stream(number: int) -> str:
            chunks = await client.chat.completions.create(
                model="features", messages=said(f"streamed {number}"), stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in chunks])

        numbers = range(20)
        answers = await asyncio.gather(*map(call, numbers), *map(stream, numbers))
    assert answers == [f"number {n}" for n in numbers] + [f"streamed {n}" for n in numbers]
