"""Requests for one expert's server go through as they came, and so do its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from coe.engines.base import Engine
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, OpenAISpec, ScriptedSpec
from coe.service.app import create_app

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ANSWER = b'{"id":"x1", "choices":[ {"index":0,"finish_reason":"tool_calls","odd":1.0} ],"new":[2]}'
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[1]},"finish_reason":null}],"odd":1}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n',
    b"data: [DONE]\n\n",
)


class Upstream:
    """An expert's server: what it was sent, and how it answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.stream: tuple[bytes, ...] = STREAM
        self.is_cut = False

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(json.loads(await request.read()))
        if self.status != 200:
            return web.json_response({"error": {"message": "not so"}}, status=self.status)
        if not self.bodies[-1].get("stream"):
            return web.Response(body=ANSWER, content_type="application/json")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for event in self.stream:
            await answer.write(event)
        if self.is_cut:
            assert request.transport is not None
            request.transport.close()
        return answer


@asynccontextmanager
async def _engine(expert_id: str, upstream: Upstream) -> AsyncIterator[OpenAIEngine]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    spec = OpenAISpec(f"http://{host}:{port}/v1", model=f"{expert_id}-model")
    engine = OpenAIEngine(Expert(expert_id, spec))
    try:
        yield engine
    finally:
        await engine.stop(1.0)
        await runner.cleanup()


def _text_only(expert_id: str) -> ScriptedEngine:
    return ScriptedEngine(Expert(expert_id, ScriptedSpec(default=f"{expert_id} says")))


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def engine(upstream: Upstream) -> AsyncIterator[OpenAIEngine]:
    async with _engine("sums", upstream) as engine:
        yield engine


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(compose: Any, engine: OpenAIEngine) -> AsyncIterator[Client]:
    """Makes clients of gateways over the server's expert and others that speak text alone."""
    opened: list[httpx.AsyncClient] = []

    def make(*others: str, k: int = 1) -> httpx.AsyncClient:
        engines: Mapping[str, Engine] = {"sums": engine, **{o: _text_only(o) for o in others}}
        app = create_app(compose(engines, k=k))
        opened.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe"))
        return opened[-1]

    yield make
    for one in opened:
        await one.aclose()


def _body(text: str = "sums", **fields: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}], **fields}


async def test_whole_answer_of_one_expert_comes_byte_by_byte(
    client: Client, upstream: Upstream
) -> None:
    response = await client().post(CHAT, json=_body())
    assert response.content == ANSWER
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-coe-expert"] == "sums"


async def test_streamed_answer_of_one_expert_comes_byte_by_byte(
    client: Client, upstream: Upstream
) -> None:
    response = await client().post(CHAT, json=_body(stream=True))
    assert response.content == b"".join(STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_every_field_is_passed_on_but_the_model_and_what_is_meant_for_the_gateway(
    client: Client, upstream: Upstream
) -> None:
    fields: dict[str, Any] = {
        "tools": [TOOL],
        "logprobs": True,
        "n": 2,
        "never_heard_of": {"deep": [1, None]},
        "temperature": 0.3,
        "user": "u",
    }
    tool_turns = [
        {"role": "user", "content": [{"type": "text", "text": "sums"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {}}]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    body = {"model": "coe", "messages": tool_turns, **fields, "coe": {"priority": 1}}
    response = await client().post(CHAT, json=body)
    assert response.status_code == 200
    assert upstream.bodies == [{"model": "sums-model", "messages": tool_turns, **fields}]


async def test_request_that_only_a_server_understands_is_routed_to_one(
    client: Client, upstream: Upstream
) -> None:
    asked = client("lands")
    plain = await asked.post(CHAT, json=_body("lands"))
    assert plain.headers["x-coe-expert"] == "lands"
    with_tools = await asked.post(CHAT, json=_body("lands", tools=[TOOL]))
    assert with_tools.headers["x-coe-expert"] == "sums"
    assert with_tools.content == ANSWER


async def test_request_that_only_a_server_understands_is_refused_by_others_by_name(
    client: Client, upstream: Upstream
) -> None:
    response = await client("lands").post(CHAT, json=_body(tools=[TOOL], model="lands"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert not upstream.bodies


async def test_request_that_only_a_server_understands_goes_to_one_of_those_recruited(
    client: Client, upstream: Upstream
) -> None:
    asked = client("lands", k=2)
    both = await asked.post(CHAT, json=_body("lands"))
    assert both.headers["x-coe-router"] == "named/top-2"
    one = await asked.post(CHAT, json=_body("lands", tools=[TOOL]))
    assert one.headers["x-coe-expert"] == "sums"


async def test_server_that_fails_before_its_first_byte_is_replaced(
    client: Client, upstream: Upstream
) -> None:
    upstream.status = 500
    response = await client("lands").post(CHAT, json=_body(stream=True))
    assert response.headers["x-coe-expert"] == "lands"
    assert b"lands" in response.content
    assert response.content.endswith(b"data: [DONE]\n\n")


async def test_stream_that_is_cut_ends_with_an_error_and_without_the_end_mark(
    compose: Any, serve: Any, engine: OpenAIEngine, upstream: Upstream
) -> None:
    upstream.stream, upstream.is_cut = STREAM[:1], True

    def ask(url: str) -> bytes:
        heard = b""
        with httpx.stream("POST", url, json=_body(stream=True), trust_env=False) as response:
            try:
                for piece in response.iter_bytes():
                    heard += piece
            except httpx.RemoteProtocolError:
                return heard
        pytest.fail("the response had an end")

    with serve(create_app(compose({"sums": engine}))) as live:
        heard = await asyncio.to_thread(ask, live.url + CHAT)
    assert heard.startswith(STREAM[0])
    assert b'data: {"error"' in heard
    assert b"[DONE]" not in heard


async def test_refusal_of_the_server_is_the_clients(client: Client, upstream: Upstream) -> None:
    upstream.status = 422
    response = await client("lands").post(CHAT, json=_body())
    assert response.status_code == 400
    assert "not so" in response.json()["error"]["message"]


async def test_harness_text_does_not_decide_the_routing(client: Client) -> None:
    told = "<system-reminder>\nlands lands\n</system-reminder>\nsums please"
    response = await client("lands").post(CHAT, json=_body(told))
    assert response.headers["x-coe-expert"] == "sums"


async def test_client_names_who_may_answer(client: Client) -> None:
    asked = client("lands", "seas")
    only = await asked.post(CHAT, json=_body("sums", coe={"experts": ["lands", "seas"]}))
    assert only.headers["x-coe-expert"] == "lands"
    by_header = await asked.post(CHAT, json=_body("sums"), headers={"x-coe-experts": "seas"})
    assert by_header.headers["x-coe-expert"] == "seas"
    unknown = await asked.post(CHAT, json=_body("sums", coe={"experts": ["lnds"]}))
    assert unknown.status_code == 404
    assert "lands" in unknown.json()["error"]["message"]
    nobody = await asked.post(CHAT, json=_body(tools=[TOOL], coe={"experts": ["lands"]}))
    assert nobody.status_code == 400


async def test_client_names_a_policy(client: Client) -> None:
    asked = client("lands")
    both = await asked.post(CHAT, json=_body("lands", coe={"policy": "top-2"}))
    assert both.headers["x-coe-router"] == "named/top-2"
    assert (await asked.post(CHAT, json=_body("lands"))).headers["x-coe-router"] == "named/top-1"
    wrong = await asked.post(CHAT, json=_body("lands", coe={"policy": "tpo-2"}))
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "coe.policy"


async def test_upstream_cannot_be_chosen_by_a_client(client: Client, upstream: Upstream) -> None:
    for field in ("api_base", "base_url", "api_key"):
        response = await client().post(CHAT, json=_body(**{field: "http://127.0.0.1:1"}))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == field
    assert not upstream.bodies
