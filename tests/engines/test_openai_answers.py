"""What an OpenAI-compatible server may answer, the ill-behaved included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from coe.engines.base import Engine, collect
from coe.engines.fake_openai import serve
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.sse import MAX_EVENT_BYTES, encode_event
from coe.errors import (
    ContextOverflow,
    RequestError,
    UpstreamError,
)
from coe.experts import Expert, ScriptedSpec
from coe.types import Delta, GenerationRequest, Usage

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def test_server_without_usage_leaves_it_unknown(upstream: Any, ask: Ask) -> None:
    chat = upstream.streaming(upstream.chunk("a"), upstream.chunk("b", "stop"), upstream.done)
    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        deltas = [delta async for delta in engine.stream(ask())]
    assert deltas == [Delta("a"), Delta("b"), Delta(finish_reason="stop")]


async def test_usage_after_the_finish_reason_is_on_the_last_delta(upstream: Any, ask: Ask) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    tail = encode_event(orjson.dumps({"choices": [], "usage": usage}))
    async with (
        upstream.server(
            upstream.streaming(
                upstream.chunk("a", usage=None), upstream.chunk("", "length"), tail, upstream.done
            )
        ) as url,
        upstream.engine(url) as engine,
    ):
        deltas = [delta async for delta in engine.stream(ask())]
    assert deltas == [Delta("a"), Delta(finish_reason="length", usage=Usage(3, 1))]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("function_call", "tool_calls"), ("eos", "stop")],
)
async def test_finish_reasons_are_translated(
    upstream: Any, theirs: str, ours: str, ask: Ask
) -> None:
    async with (
        upstream.server(upstream.streaming(upstream.chunk("a", theirs))) as base_url,
        upstream.engine(base_url) as engine,
    ):
        assert (await collect("e", engine.stream(ask()))).finish_reason == ours


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ((), "without a finish reason"),
        ((b"data: [DONE]\n\n",), "without a finish reason"),
        ((b'data: {"choices": [{"finish_reason": "abort"}]}\n\n',), "cut its answer off"),
        ((b"data: not json\n\n",), "not JSON"),
        ((b'data: {"error": {"message": "died", "code": 500}}\n\n',), "died"),
        ((b'event: error\ndata: {"message": "died"}\n\n',), "died"),
        ((b"x" * (MAX_EVENT_BYTES + 1),), "too much"),
    ],
    ids=["ends", "done", "abort", "not-json", "error", "error-event", "flood"],
)
async def test_answer_that_breaks_off_is_an_upstream_error_after_its_text(
    upstream: Any, rest: tuple[bytes, ...], complaint: str, ask: Ask
) -> None:
    chat = upstream.streaming(upstream.chunk("half"), *rest)
    seen, error = await _read_until_error(upstream, chat, ask())
    assert seen == ["half"]
    assert complaint in str(error)


async def test_server_that_dies_in_mid_answer_is_named_with_what_to_do(
    upstream: Any, ask: Ask
) -> None:
    chat = upstream.streaming(upstream.chunk("half"), ends=False)
    seen, error = await _read_until_error(upstream, chat, ask())
    assert seen == ["half"]
    assert "expert 'e': its server at http://127.0.0.1:" in str(error)
    assert "cut the connection before the answer was whole" in str(error)
    assert "ask again" in str(error)


async def _read_until_error(
    upstream: Any, chat: Handler, request: GenerationRequest
) -> tuple[list[str], UpstreamError]:
    seen: list[str] = []

    async def read(engine: Engine) -> None:
        async for delta in engine.stream(request):
            seen.append(delta.text)

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        with pytest.raises(UpstreamError) as caught:
            await read(engine)
    return seen, caught.value


async def test_error_event_passes_on_the_servers_words(upstream: Any, ask: Ask) -> None:
    event = encode_event(b'{"error": {"message": "out of memory", "code": 503}}')
    error = await upstream.failure(upstream.streaming(event), ask())
    assert isinstance(error, UpstreamError)
    assert "out of memory" in str(error)
    assert error.status == 503


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, {"error": {"message": "boom"}}, "boom"),
        (503, {"detail": "loading"}, "loading"),
        (404, {"error": "no such model"}, "no such model"),
        (429, "slow down", "slow down"),
    ],
)
async def test_status_is_an_upstream_error_with_the_servers_words(
    upstream: Any, status: int, body: object, words: str, ask: Ask
) -> None:
    error = await upstream.failure(upstream.answering(status, body), ask())
    assert isinstance(error, UpstreamError)
    assert error.status == status
    assert words in str(error)


@pytest.mark.parametrize(
    ("message", "needed", "context"),
    [
        ("max_tokens=300 cannot be greater than max_model_len=256. (value=300)", "300", 256),
        (
            "This model's maximum context length is 256 tokens. However, your prompt contains at "
            "least 257 input tokens, which exceeds this limit",
            "at least 257",
            256,
        ),
        (
            "This model's maximum context length is 4097 tokens. However, you requested 4112 "
            "tokens (112 in the messages, 4000 in the completion).",
            "4112",
            4097,
        ),
        ("the context window of 512 is full", "at least 513", 512),
    ],
)
async def test_context_overflow_is_told_from_the_servers_words(
    upstream: Any, message: str, needed: str, context: int, ask: Ask
) -> None:
    body = {"error": {"message": message, "code": 400}}
    error = await upstream.failure(upstream.answering(400, body), ask(max_tokens=300))
    assert isinstance(error, ContextOverflow)
    assert (error.needed_tokens, error.context_tokens) == (int(needed.split()[-1]), context)
    assert f"this request needs {needed};" in str(error)


async def test_other_bad_requests_are_the_callers(upstream: Any, ask: Ask) -> None:
    error = await upstream.failure(
        upstream.answering(400, {"error": {"message": "bad role"}}), ask()
    )
    assert isinstance(error, RequestError)
    assert not isinstance(error, ContextOverflow)
    assert "bad role" in str(error)


async def test_failure_of_the_served_engine_arrives_in_mid_stream(upstream: Any, ask: Ask) -> None:
    served = ScriptedEngine(Expert("s", ScriptedSpec(default="a b c d", fail_after_tokens=2)))
    seen: list[str] = []

    async def read(engine: OpenAIEngine) -> None:
        async for delta in engine.stream(ask()):
            seen.append(delta.text)

    async with serve(served) as base_url, upstream.engine(base_url) as engine:
        with pytest.raises(UpstreamError, match="scripted to fail"):
            await read(engine)
    assert "".join(seen) == "a b"
