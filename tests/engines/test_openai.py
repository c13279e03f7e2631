"""The OpenAI-compatible client against real servers on loopback, the ill-behaved included."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import orjson
import pytest
from aiohttp import web

from coe.engines.base import EngineState, collect
from coe.engines.fake_openai import serve
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.sse import MAX_EVENT_BYTES, encode_event
from coe.errors import (
    CoeError,
    ContextOverflow,
    RequestError,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, OpenAISpec, ScriptedSpec
from coe.types import Delta, GenerationRequest, Usage

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _server(chat: Handler, models: Handler | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    if models is not None:
        app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _engine(base_url: str, **spec: object) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(Expert("e", OpenAISpec(base_url, **spec)))  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        await engine.stop(5)


def _streaming(*events: bytes, ends: bool = True) -> Handler:
    async def chat(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for event in events:
            await answer.write(event)
        if not ends:
            assert request.transport is not None
            request.transport.close()
        return answer

    return chat


def _chunk(text: str = "", reason: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return encode_event(orjson.dumps({"choices": [choice], **more}))


def _answering(status: int, body: object) -> Handler:
    async def chat(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=orjson.dumps(body))

    return chat


DONE = encode_event(b"[DONE]")


async def _failure(chat: Handler, request: GenerationRequest, **spec: object) -> CoeError:
    async with _server(chat) as base_url, _engine(base_url, **spec) as engine:
        with pytest.raises(CoeError) as caught:
            await collect("e", engine.stream(request))
    return caught.value


async def test_request_carries_the_parameters_and_asks_for_usage(ask: Ask) -> None:
    bodies: list[dict[str, object]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(orjson.loads(await request.read()))
        return await _streaming(_chunk("x", "stop"), DONE)(request)

    async with _server(chat) as base_url, _engine(base_url + "/", model="theirs") as engine:
        await collect("e", engine.stream(ask("hi", seed=3, stop=("s",), top_p=0.5, max_tokens=9)))
        await collect("e", engine.stream(ask("hi")))
    assert bodies[0] == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["s"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert bodies[1]["max_tokens"] == 1024
    assert not bodies[1].keys() & {"top_p", "seed", "stop"}


async def test_model_name_defaults_to_the_experts_id(ask: Ask) -> None:
    names: list[object] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        names.append(orjson.loads(await request.read())["model"])
        return await _streaming(_chunk("x", "stop"), DONE)(request)

    async with _server(chat) as base_url, _engine(base_url) as engine:
        await collect("e", engine.stream(ask()))
    assert names == ["e"]


async def test_key_comes_from_the_environment(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return await _streaming(_chunk("x", "stop"), DONE)(request)

    monkeypatch.setenv("THEIR_KEY", "canary")
    async with _server(chat) as base_url, _engine(base_url, api_key_env="THEIR_KEY") as engine:
        await collect("e", engine.stream(ask()))
    assert seen == ["Bearer canary"]


async def test_missing_key_is_named_before_anything_is_sent(ask: Ask) -> None:
    async with _engine("http://127.0.0.1:9/v1", api_key_env="THEIR_KEY") as engine:
        with pytest.raises(StartupError, match="THEIR_KEY"):
            await engine.ensure_ready(5)
        with pytest.raises(StartupError, match="THEIR_KEY"):
            await collect("e", engine.stream(ask()))


async def test_redirect_is_not_followed(ask: Ask) -> None:
    async def chat(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")

    error = await _failure(chat, ask())
    assert isinstance(error, UpstreamError)
    assert error.status == 307


async def test_server_without_usage_leaves_it_unknown(ask: Ask) -> None:
    chat = _streaming(_chunk("a"), _chunk("b", "stop"), DONE)
    async with _server(chat) as base_url, _engine(base_url) as engine:
        deltas = [delta async for delta in engine.stream(ask())]
    assert deltas == [Delta("a"), Delta("b"), Delta(finish_reason="stop")]


async def test_usage_after_the_finish_reason_is_on_the_last_delta(ask: Ask) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    tail = encode_event(orjson.dumps({"choices": [], "usage": usage}))
    async with (
        _server(_streaming(_chunk("a", usage=None), _chunk("", "length"), tail, DONE)) as url,
        _engine(url) as engine,
    ):
        deltas = [delta async for delta in engine.stream(ask())]
    assert deltas == [Delta("a"), Delta(finish_reason="length", usage=Usage(3, 1))]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "stop"), ("length", "length"), ("function_call", "tool_calls"), ("eos", "stop")],
)
async def test_finish_reasons_are_translated(theirs: str, ours: str, ask: Ask) -> None:
    async with _server(_streaming(_chunk("a", theirs))) as base_url, _engine(base_url) as engine:
        assert (await collect("e", engine.stream(ask()))).finish_reason == ours


@pytest.mark.parametrize(
    "chat",
    [
        _streaming(_chunk("half")),
        _streaming(_chunk("half"), DONE),
        _streaming(_chunk("half"), _chunk("", "abort"), DONE),
        _streaming(_chunk("half"), ends=False),
        _streaming(_chunk("half"), encode_event(b"not json")),
        _streaming(_chunk("half"), encode_event(b'{"error": {"message": "died", "code": 500}}')),
        _streaming(_chunk("half"), b'event: error\ndata: {"message": "died"}\n\n'),
        _streaming(_chunk("half"), b"x" * (MAX_EVENT_BYTES + 1)),
    ],
    ids=["ends", "done", "abort", "cut", "not-json", "error", "error-event", "flood"],
)
async def test_answer_that_breaks_off_is_an_upstream_error_after_its_text(
    chat: Handler, ask: Ask
) -> None:
    seen: list[str] = []

    async def read(engine: OpenAIEngine) -> None:
        async for delta in engine.stream(ask()):
            seen.append(delta.text)

    async with _server(chat) as base_url, _engine(base_url) as engine:
        with pytest.raises(UpstreamError):
            await read(engine)
    assert seen == ["half"]


async def test_error_event_passes_on_the_servers_words(ask: Ask) -> None:
    event = encode_event(b'{"error": {"message": "out of memory", "code": 503}}')
    error = await _failure(_streaming(event), ask())
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
    status: int, body: object, words: str, ask: Ask
) -> None:
    error = await _failure(_answering(status, body), ask())
    assert isinstance(error, UpstreamError)
    assert error.status == status
    assert words in str(error)


@pytest.mark.parametrize(
    ("message", "needed", "context"),
    [
        ("max_tokens=300 cannot be greater than max_model_len=256. (value=300)", 300, 256),
        (
            "This model's maximum context length is 256 tokens. However, your prompt contains at "
            "least 257 input tokens, which exceeds this limit",
            257,
            256,
        ),
        (
            "This model's maximum context length is 4097 tokens. However, you requested 4112 "
            "tokens (112 in the messages, 4000 in the completion).",
            4112,
            4097,
        ),
    ],
)
async def test_context_overflow_is_told_from_the_servers_words(
    message: str, needed: int, context: int, ask: Ask
) -> None:
    body = {"error": {"message": message, "code": 400}}
    error = await _failure(_answering(400, body), ask(max_tokens=300))
    assert isinstance(error, ContextOverflow)
    assert (error.needed_tokens, error.context_tokens) == (needed, context)


async def test_other_bad_requests_are_the_callers(ask: Ask) -> None:
    error = await _failure(_answering(400, {"error": {"message": "bad role"}}), ask())
    assert isinstance(error, RequestError)
    assert not isinstance(error, ContextOverflow)
    assert "bad role" in str(error)


async def test_own_limit_that_does_not_fit_is_left_to_the_server(ask: Ask) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        if "max_tokens" in orjson.loads(await request.read()):
            message = "maximum context length is 256 tokens, you requested 1200"
            return await _answering(400, {"error": {"message": message}})(request)
        return await _streaming(_chunk("fits", "length"), DONE)(request)

    async with _server(chat) as base_url, _engine(base_url) as engine:
        assert (await collect("e", engine.stream(ask()))).text == "fits"
        with pytest.raises(ContextOverflow):
            await collect("e", engine.stream(ask(max_tokens=1200)))


async def test_silence_is_a_timeout(ask: Ask) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    error = await _failure(chat, ask(), timeout_s=0.05)
    assert isinstance(error, UpstreamTimeout)
    assert error.timeout_s == 0.05


async def test_nobody_there_is_an_upstream_error_that_names_the_address(ask: Ask) -> None:
    base_url = f"http://127.0.0.1:{_free_port()}/v1"
    async with _engine(base_url) as engine:
        with pytest.raises(UpstreamError, match=base_url):
            await collect("e", engine.stream(ask()))
        assert engine.state is EngineState.FAILED


async def test_closing_a_stream_hangs_up_at_once(ask: Ask) -> None:
    hung_up = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(_chunk("first"))
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError("unreachable")

    async with _server(chat) as base_url, _engine(base_url) as engine:
        stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
        assert await anext(stream) == Delta("first")
        await stream.aclose()
        await asyncio.wait_for(hung_up.wait(), timeout=1)


async def test_cancelling_before_the_answer_hangs_up_at_once(ask: Ask) -> None:
    arrived, hung_up = asyncio.Event(), asyncio.Event()

    async def chat(_: web.Request) -> web.StreamResponse:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError("unreachable")

    async with _server(chat) as base_url, _engine(base_url) as engine:
        reader = asyncio.create_task(collect("e", engine.stream(ask())))
        await arrived.wait()
        reader.cancel()
        await asyncio.wait_for(hung_up.wait(), timeout=1)
        with pytest.raises(asyncio.CancelledError):
            await reader


async def test_connection_is_used_again_after_a_whole_answer(ask: Ask) -> None:
    peers: set[object] = set()
    was_read = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        answer = await _streaming(_chunk("x", "stop"), DONE)(request)
        # The body ends only after the client has seen the end of the answer.
        await was_read.wait()
        return answer

    async with _server(chat) as base_url, _engine(base_url) as engine:
        for _ in range(3):
            was_read.clear()
            async for delta in engine.stream(ask()):
                if delta.finish_reason is not None:
                    was_read.set()
    assert len(peers) == 1


async def test_ensure_ready_polls_until_the_server_answers() -> None:
    statuses = [503, 500, 200]
    pauses: list[float] = []

    async def models(_: web.Request) -> web.StreamResponse:
        return web.Response(status=statuses.pop(0))

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with _server(_streaming(), models) as base_url:
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url)), sleep=sleep)
        await engine.ensure_ready(5)
        assert engine.state is EngineState.READY
        await engine.stop(5)
    assert statuses == []
    assert pauses == [0.1, 0.2]


async def test_ensure_ready_takes_a_server_that_lists_no_models() -> None:
    async with _server(_streaming()) as base_url, _engine(base_url) as engine:
        await engine.ensure_ready(5)
        assert engine.state is EngineState.READY


async def test_ensure_ready_gives_up_at_its_deadline() -> None:
    async with _engine(f"http://127.0.0.1:{_free_port()}/v1") as engine:
        with pytest.raises(StartupError, match="not ready within"):
            await engine.ensure_ready(0.05)


async def test_ensure_ready_does_not_wait_for_a_refused_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THEIR_KEY", "wrong")
    models = _answering(401, {})
    async with (
        _server(_streaming(), models) as base_url,
        _engine(base_url, api_key_env="THEIR_KEY") as engine,
    ):
        with pytest.raises(StartupError, match="check THEIR_KEY"):
            await engine.ensure_ready(5)
        assert engine.state is EngineState.FAILED


async def test_failure_of_the_served_engine_arrives_in_mid_stream(ask: Ask) -> None:
    served = ScriptedEngine(Expert("s", ScriptedSpec(default="a b c d", fail_after_tokens=2)))
    seen: list[str] = []

    async def read(engine: OpenAIEngine) -> None:
        async for delta in engine.stream(ask()):
            seen.append(delta.text)

    async with serve(served) as base_url, _engine(base_url) as engine:
        with pytest.raises(UpstreamError, match="scripted to fail"):
            await read(engine)
    assert "".join(seen) == "a b"


async def test_closing_a_stream_cancels_the_served_engine(ask: Ask) -> None:
    cancelled = asyncio.Event()

    async def slow(seconds: float) -> None:
        if seconds:
            try:
                await asyncio.sleep(seconds if len(seen) < 1 else 3600)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    seen: list[Delta] = []
    served = ScriptedEngine(Expert("s", ScriptedSpec(default="a b", tokens_per_s=1000.0)), slow)
    async with serve(served) as base_url, _engine(base_url) as engine:
        stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
        seen.append(await anext(stream))
        await stream.aclose()
        await asyncio.wait_for(cancelled.wait(), timeout=1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
