"""Waiting for an OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from coe.engines.base import EngineState
from coe.engines.openai import OpenAIEngine, open_session
from coe.errors import (
    StartupError,
)
from coe.experts import Expert, OpenAISpec
from coe.types import GenerationRequest

Ask = Callable[..., GenerationRequest]


async def test_ensure_ready_polls_until_the_server_answers(upstream: Any) -> None:
    statuses = [503, 500, 200]
    pauses: list[float] = []

    async def models(_: web.Request) -> web.StreamResponse:
        return web.Response(status=statuses.pop(0))

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with upstream.server(upstream.streaming(), models) as base_url:
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url)), sleep=sleep)
        await engine.ensure_ready(5)
        assert engine.state is EngineState.READY
        await engine.stop(5)
    assert statuses == []
    assert pauses == [0.1, 0.2]


async def test_ensure_ready_takes_a_server_that_lists_no_models(upstream: Any) -> None:
    async with (
        upstream.server(upstream.streaming()) as base_url,
        upstream.engine(base_url) as engine,
    ):
        await engine.ensure_ready(5)
        assert engine.state is EngineState.READY


async def test_ensure_ready_gives_a_server_that_is_not_there_three_connect_timeouts(
    upstream: Any,
) -> None:
    base_url = upstream.nobody()
    async with upstream.engine(base_url, connect_timeout_s=0.05) as engine:
        with pytest.raises(StartupError) as caught:
            await engine.ensure_ready(300)
        assert engine.state is EngineState.FAILED
    assert f"not reached within 0.15 s: {base_url} cannot be reached: " in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "correct base_url" in str(caught.value)


async def test_ensure_ready_that_is_too_late_tells_the_last_cause(upstream: Any) -> None:
    models = upstream.answering(503, {})
    async with (
        upstream.server(upstream.streaming(), models) as base_url,
        upstream.engine(base_url, connect_timeout_s=0.01) as engine,
    ):
        # It answers, so it is loading and worth the whole wait.
        with pytest.raises(StartupError, match=r"within 0\.15 s \(http.*answers with status 503\)"):
            await engine.ensure_ready(0.15)


async def test_ensure_ready_gives_up_on_a_server_that_takes_connections_and_is_silent(
    upstream: Any,
) -> None:
    async def models(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with (
        upstream.server(upstream.streaming(), models) as base_url,
        upstream.engine(base_url, connect_timeout_s=0.02) as engine,
    ):
        with pytest.raises(StartupError, match="is silent"):
            await engine.ensure_ready(300)


@pytest.mark.parametrize("address", ["http://127.0.0.1:no-port/v1", "https:{server}"])
async def test_ensure_ready_does_not_wait_for_an_address_that_is_wrong(
    upstream: Any, address: str
) -> None:
    async with upstream.server(upstream.streaming()) as base_url:
        wrong = address.format(server=base_url.removeprefix("http:"))
        async with upstream.engine(wrong) as engine:
            with pytest.raises(StartupError, match=r"cannot be used: .*; correct base_url"):
                await engine.ensure_ready(300)


async def test_connecting_is_bounded_from_the_look_up_of_the_name_on() -> None:
    async with open_session(OpenAISpec("http://e/v1", connect_timeout_s=2.5)) as session:
        assert session.timeout.connect == session.timeout.sock_connect == 2.5


async def test_ensure_ready_does_not_wait_for_a_refused_key(
    upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "wrong")
    models = upstream.answering(401, {})
    async with (
        upstream.server(upstream.streaming(), models) as base_url,
        upstream.engine(base_url, api_key_env="THEIR_KEY") as engine,
    ):
        with pytest.raises(StartupError, match="check THEIR_KEY"):
            await engine.ensure_ready(5)
        assert engine.state is EngineState.FAILED
