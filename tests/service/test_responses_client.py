"""The official client, unchanged, against these translations on a real socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from coe.service.completions_wire import TextChunkWriter, read_completions, text_completion
from coe.service.reply import to_json
from coe.service.responses.request import read_responses
from coe.service.responses.store import ResponseStore
from coe.service.responses.writer import ResponseWriter, sse, whole_response

TOOL: Any = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def answer_to(chat: Mapping[str, Any]) -> dict[str, Any]:
    """The message of an expert that calls its tool once, and else repeats what was said."""
    last = chat["messages"][-1]
    if chat.get("tools") and last["role"] == "user":
        call = {
            "index": 0,
            "id": "c1",
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1}'},
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    said = " / ".join(str(message["content"]) for message in chat["messages"])
    return {"role": "assistant", "content": '{"n": 2}' if "response_format" in chat else said}


def chunks_of(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for char in message["content"] or "":
        yield {"choices": [{"index": 0, "delta": {"content": char}}]}
    if message.get("tool_calls"):
        yield {"choices": [{"index": 0, "delta": {"tool_calls": message["tool_calls"]}}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": USAGE}


async def completions(request: Request) -> Response:
    call = read_completions(await request.body())
    messages = [answer_to(chat) for chat in call.chats]
    if not call.is_streamed:
        answers = [
            {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
            for message in messages
        ]
        body = text_completion(call, "cmpl-1", "sums", answers)
        return Response(to_json(body), media_type="application/json")

    async def events() -> Any:
        writer = TextChunkWriter(call, "cmpl-1", "sums")
        for index, message in enumerate(messages):
            for chunk in chunks_of(message):
                told = writer.chunk(chunk, index)
                if told is not None:
                    yield b"data: " + to_json(told) + b"\n\n"
        yield b"data: " + to_json(writer.usage()) + b"\n\ndata: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def gateway() -> Starlette:
    store = ResponseStore()

    async def responses(request: Request) -> Response:
        call = read_responses(await request.body(), partial(store.turns, "tenant"))
        response_id = f"resp_{len(store)}"
        message = answer_to(call.chat)
        if not call.is_streamed:
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            completion = {"choices": [choice], "usage": USAGE}
            whole = whole_response(call, response_id, "sums", completion)
            store.keep("tenant", whole.response, whole.turns)
            return Response(to_json(whole.response), media_type="application/json")

        async def events() -> Any:
            writer = ResponseWriter(call, response_id, "sums")
            yield sse(writer.begin())
            for chunk in chunks_of(message):
                yield sse(writer.chunk(chunk))
            yield sse(writer.end())

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
        ]
    )


@pytest.fixture(scope="module")
def ai(serve: Any) -> Iterator[openai.OpenAI]:
    with (
        serve(gateway()) as live,
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


def test_client_creates_a_response_and_goes_on_from_it(ai: openai.OpenAI) -> None:
    first = ai.responses.create(model="coe", input="one", instructions="Be kind.")
    assert first.output_text == "Be kind. / one"
    assert first.status == "completed"
    assert first.usage is not None
    assert first.usage.total_tokens == 6
    second = ai.responses.create(model="coe", input="two", previous_response_id=first.id)
    assert second.output_text == "one / Be kind. / one / two"
    assert second.previous_response_id == first.id


def test_client_calls_a_tool_and_sends_its_output(ai: openai.OpenAI) -> None:
    first = ai.responses.create(model="coe", input="add", tools=[TOOL])
    call = first.output[0]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("add", '{"a": 1}')
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "2"}]
    second = ai.responses.create(
        model="coe", input=output, previous_response_id=first.id, tools=[TOOL]
    )
    assert second.output_text == "add / None / 2"
    # And without anything kept here: the client sends its own copy of all items.
    items: Any = [{"role": "user", "content": "add"}, *first.output, *output]
    assert ai.responses.create(model="coe", input=items).output_text == second.output_text


def test_client_streams_the_events_of_a_response(ai: openai.OpenAI) -> None:
    events = list(ai.responses.create(model="coe", input="one", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["o", "n", "e"]
    assert events[-1].type == "response.completed"


def test_client_gathers_a_stream_into_a_response(ai: openai.OpenAI) -> None:
    with ai.responses.stream(model="coe", input="one") as stream:
        snapshots = [event.snapshot for event in stream if hasattr(event, "snapshot")]
        final = stream.get_final_response()
    assert snapshots == ["o", "on", "one"]
    assert final.output_text == "one"
    with ai.responses.stream(model="coe", input="add", tools=[TOOL]) as stream:
        call = stream.get_final_response().output[0]
    assert call.type == "function_call"
    assert call.arguments == '{"a": 1}'


class Sum(BaseModel):
    n: int


def test_client_parses_a_response_that_follows_a_schema(ai: openai.OpenAI) -> None:
    parsed = ai.responses.parse(model="coe", input="1 + 1", text_format=Sum)
    assert parsed.output_parsed == Sum(n=2)


def test_client_completes_prompts_the_older_way(ai: openai.OpenAI) -> None:
    whole = ai.completions.create(model="coe", prompt=["one", "two"])
    assert [choice.text for choice in whole.choices] == ["one", "two"]
    assert whole.usage is not None
    assert whole.usage.total_tokens == 12
    stream = ai.completions.create(
        model="coe", prompt="one", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "one"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6
