"""Where the OpenAI-compatible client may not go, what it may not say, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import orjson
import pytest
from aiohttp import web

from coe.engines.base import EngineState, collect
from coe.engines.openai import OpenAIEngine, open_session
from coe.engines.sse import encode_event
from coe.errors import CoeError, UpstreamError, UpstreamTimeout
from coe.experts import Expert, OpenAISpec
from coe.types import GenerationRequest, RawRequest

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


class _Stopping:
    """Makes sessions that stop the engine when the head of an answer is there."""

    def __init__(self) -> None:
        self.engine: OpenAIEngine | None = None
        self.n_opened = 0

    def __call__(self, spec: OpenAISpec) -> aiohttp.ClientSession:
        self.n_opened += 1
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._stop)
        session = open_session(spec)
        trace.freeze()
        session.trace_configs.append(trace)
        return session

    async def _stop(self, *_: object) -> None:
        assert self.engine is not None
        await self.engine.stop(5)


async def _stopped_in_mid_request(
    handler: Handler, request: GenerationRequest
) -> tuple[EngineState, int]:
    """The state in which the engine is left, and how many sessions it opened."""
    sessions = _Stopping()
    async with _server(handler) as base_url:
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url)), sessions)
        sessions.engine = engine
        with pytest.raises(UpstreamError):
            await collect("e", engine.stream(request))
        left = engine.state
        await engine.stop(5)
    return left, sessions.n_opened


async def test_start_follows_no_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    monkeypatch.setenv("THEIR_KEY", "canary")
    async with _server(handler) as base_url:
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url, api_key_env="THEIR_KEY")))
        await engine.ensure_ready(5)
        await engine.stop(5)
    assert paths == ["/v1/models"]


@pytest.mark.parametrize("rest", ["127.0.0.1:9/v1", "127.0.0.1:no-port/v1"])
async def test_errors_do_not_tell_the_password_in_the_address(ask: Ask, rest: str) -> None:
    engine = OpenAIEngine(Expert("e", OpenAISpec(f"http://user:canary@{rest}")))
    with pytest.raises(CoeError) as caught:
        await collect("e", engine.stream(ask()))
    await engine.stop(5)
    assert rest in str(caught.value)
    assert "user" not in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_refused_key_does_not_tell_the_password_in_the_address() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    async with _server(handler) as base_url:
        address = base_url.replace("://", "://user:canary@")
        engine = OpenAIEngine(Expert("e", OpenAISpec(address)))
        with pytest.raises(CoeError, match="refuses the API key") as caught:
            await engine.ensure_ready(5)
        await engine.stop(5)
    assert "canary" not in str(caught.value)


async def test_stream_that_stop_overtook_does_not_open_another_session(ask: Ask) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        message = "maximum context length is 256 tokens, you requested 1200"
        return web.Response(status=400, body=orjson.dumps({"error": {"message": message}}))

    assert await _stopped_in_mid_request(handler, ask()) == (EngineState.STOPPED, 1)


async def test_stream_that_stop_overtook_does_not_make_the_engine_ready(ask: Ask) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(encode_event(b'{"choices": []}'))
        return answer

    assert await _stopped_in_mid_request(handler, ask()) == (EngineState.STOPPED, 1)


class _Dripping(asyncio.Protocol):
    """A head that comes a byte at a time, never silent for long and never whole."""

    def __init__(self) -> None:
        self._dripping: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._dripping = asyncio.get_running_loop().create_task(self._drip(transport))

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._dripping is not None
        self._dripping.cancel()

    async def _drip(self, transport: asyncio.Transport) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\nx-drip: ")
        while True:
            transport.write(b".")
            await asyncio.sleep(0.01)


async def test_head_of_an_answer_that_drips_is_late_all_the_same(ask: Ask) -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(_Dripping, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        spec = OpenAISpec(f"http://{host}:{port}/v1", timeout_s=0.1, connect_timeout_s=0.1)
        engine = OpenAIEngine(Expert("e", spec))
        with pytest.raises(UpstreamTimeout):
            await asyncio.wait_for(collect("e", engine.stream(ask())), 5)
        await engine.stop(1)


async def test_whole_body_that_drips_is_late_all_the_same(ask: Ask) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    async with _server(handler) as base_url:
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url, timeout_s=0.1)))
        request = replace(ask(), raw=RawRequest({}))
        with pytest.raises(UpstreamTimeout):
            await asyncio.wait_for(collect("e", engine.stream(request)), 5)
        await engine.stop(1)
