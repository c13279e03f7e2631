"""Connections to an OpenAI-compatible server: silent, dead, hung up on, used again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import pytest
from aiohttp import web

from coe.engines.base import EngineState, collect
from coe.engines.fake_openai import serve
from coe.engines.scripted import ScriptedEngine
from coe.errors import (
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, ScriptedSpec
from coe.types import Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def test_silence_is_a_timeout(upstream: Any, ask: Ask) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    error = await upstream.failure(chat, ask(), timeout_s=0.05)
    assert isinstance(error, UpstreamTimeout)
    assert error.timeout_s == 0.05


async def test_nobody_there_is_an_upstream_error_that_names_the_address(
    upstream: Any, ask: Ask
) -> None:
    base_url = upstream.nobody()
    async with upstream.engine(base_url) as engine:
        with pytest.raises(UpstreamError, match=base_url):
            await collect("e", engine.stream(ask()))
        assert engine.state is EngineState.FAILED


async def test_server_that_takes_no_connection_is_a_timeout_of_connecting(
    upstream: Any, ask: Ask
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        # It never speaks TLS, so that the connection is never whole.
        base_url = f"https://127.0.0.1:{mute.getsockname()[1]}/v1"
        async with upstream.engine(base_url, connect_timeout_s=0.05) as engine:
            with pytest.raises(
                UpstreamTimeout, match=r"no connection to its server within 0\.05 s"
            ):
                await collect("e", engine.stream(ask()))
            assert engine.state is EngineState.FAILED


async def test_server_that_cut_an_answer_is_looked_for_again(upstream: Any, ask: Ask) -> None:
    looks: list[str] = []

    async def models(request: web.Request) -> web.StreamResponse:
        looks.append(request.path)
        return web.Response()

    chat = upstream.streaming(upstream.chunk("half"), ends=False)
    async with upstream.server(chat, models) as base_url, upstream.engine(base_url) as engine:
        with pytest.raises(UpstreamError):
            await collect("e", engine.stream(ask()))
        assert engine.state is EngineState.FAILED
        await engine.ensure_ready(5)
        await engine.ensure_ready(5)
    assert looks == ["/v1/models"]


async def test_closing_a_stream_hangs_up_at_once(upstream: Any, ask: Ask) -> None:
    hung_up = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(upstream.chunk("first"))
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError("unreachable")

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
        assert await anext(stream) == Delta("first")
        await stream.aclose()
        await asyncio.wait_for(hung_up.wait(), timeout=1)


async def test_cancelling_before_the_answer_hangs_up_at_once(upstream: Any, ask: Ask) -> None:
    arrived, hung_up = asyncio.Event(), asyncio.Event()

    async def chat(_: web.Request) -> web.StreamResponse:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            hung_up.set()
        raise AssertionError("unreachable")

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        reader = asyncio.create_task(collect("e", engine.stream(ask())))
        await arrived.wait()
        reader.cancel()
        await asyncio.wait_for(hung_up.wait(), timeout=1)
        with pytest.raises(asyncio.CancelledError):
            await reader


async def test_connection_is_used_again_after_a_whole_answer(upstream: Any, ask: Ask) -> None:
    peers: set[object] = set()
    was_read = asyncio.Event()

    async def chat(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        handler: Handler = upstream.streaming(upstream.chunk("x", "stop"), upstream.done)
        answer = await handler(request)
        # The body ends only after the client has seen the end of the answer.
        await was_read.wait()
        return answer

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        for _ in range(3):
            was_read.clear()
            async for delta in engine.stream(ask()):
                if delta.finish_reason is not None:
                    was_read.set()
    assert len(peers) == 1


async def test_closing_a_stream_cancels_the_served_engine(upstream: Any, ask: Ask) -> None:
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
    async with serve(served) as base_url, upstream.engine(base_url) as engine:
        stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
        seen.append(await anext(stream))
        await stream.aclose()
        await asyncio.wait_for(cancelled.wait(), timeout=1)
