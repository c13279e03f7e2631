"""What a request to an OpenAI-compatible server carries, and where it may go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from coe.engines.base import collect
from coe.errors import (
    ContextOverflow,
    StartupError,
    UpstreamError,
)
from coe.types import GenerationRequest

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def test_request_carries_the_parameters_and_asks_for_usage(upstream: Any, ask: Ask) -> None:
    bodies: list[dict[str, object]] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        bodies.append(orjson.loads(await request.read()))
        handler: Handler = upstream.streaming(upstream.chunk("x", "stop"), upstream.done)
        return await handler(request)

    async with (
        upstream.server(chat) as base_url,
        upstream.engine(base_url + "/", model="theirs") as engine,
    ):
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


async def test_model_name_defaults_to_the_experts_id(upstream: Any, ask: Ask) -> None:
    names: list[object] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        names.append(orjson.loads(await request.read())["model"])
        handler: Handler = upstream.streaming(upstream.chunk("x", "stop"), upstream.done)
        return await handler(request)

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        await collect("e", engine.stream(ask()))
    assert names == ["e"]


async def test_key_comes_from_the_environment(
    upstream: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        handler: Handler = upstream.streaming(upstream.chunk("x", "stop"), upstream.done)
        return await handler(request)

    monkeypatch.setenv("THEIR_KEY", "canary")
    async with (
        upstream.server(chat) as base_url,
        upstream.engine(base_url, api_key_env="THEIR_KEY") as engine,
    ):
        await collect("e", engine.stream(ask()))
    assert seen == ["Bearer canary"]


async def test_missing_key_is_named_before_anything_is_sent(upstream: Any, ask: Ask) -> None:
    async with upstream.engine("http://127.0.0.1:9/v1", api_key_env="THEIR_KEY") as engine:
        with pytest.raises(StartupError, match="THEIR_KEY"):
            await engine.ensure_ready(5)
        with pytest.raises(StartupError, match="THEIR_KEY"):
            await collect("e", engine.stream(ask()))


async def test_redirect_is_not_followed(upstream: Any, ask: Ask) -> None:
    async def chat(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")

    error = await upstream.failure(chat, ask())
    assert isinstance(error, UpstreamError)
    assert error.status == 307


async def test_own_limit_that_does_not_fit_is_left_to_the_server(upstream: Any, ask: Ask) -> None:
    message = "maximum context length is 256 tokens, you requested 1200"
    too_long: Handler = upstream.answering(400, {"error": {"message": message}})
    fits: Handler = upstream.streaming(upstream.chunk("fits", "length"), upstream.done)

    async def chat(request: web.Request) -> web.StreamResponse:
        if "max_tokens" in orjson.loads(await request.read()):
            return await too_long(request)
        return await fits(request)

    async with upstream.server(chat) as base_url, upstream.engine(base_url) as engine:
        assert (await collect("e", engine.stream(ask()))).text == "fits"
        with pytest.raises(ContextOverflow):
            await collect("e", engine.stream(ask(max_tokens=1200)))
