"""The other routes of the gateway: older completions, responses, embeddings, the dry run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, OpenAISpec, ScriptedSpec
from coe.service.app import create_app

CHUNKS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"for"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"ty"},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)


class Server:
    """An expert's server that knows every route."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        route = request.path.removeprefix("/v1/")
        self.asked.append((route, body))
        if body.get("stream"):
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            for event in CHUNKS:
                await answer.write(event)
            return answer
        if route == "embeddings":
            return web.json_response({"data": [{"embedding": [0.5], "index": 0}]})
        if route == "completions":
            return web.json_response({"choices": [{"text": "raw", "finish_reason": "stop"}]})
        message = {"role": "assistant", "content": "forty"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        return web.json_response({"choices": [choice], "usage": usage})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(compose: Any, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway over the server's expert, `sums`, and `lands`, who speaks text alone."""
    app = web.Application()
    app.router.add_post("/v1/{route:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    engine = OpenAIEngine(Expert("sums", OpenAISpec(f"http://{host}:{port}/v1")))
    lands = ScriptedEngine(Expert("lands", ScriptedSpec(default="Lima it is")))
    gateway = create_app(compose({"sums": engine, "lands": lands}))
    transport = httpx.ASGITransport(gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        yield client
    await engine.stop(1.0)
    await runner.cleanup()


def _events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_completions_of_a_server_are_passed_through(
    client: httpx.AsyncClient, server: Server
) -> None:
    body = {"model": "coe", "prompt": ["sums", "more"], "echo": True, "coe": {"priority": 1}}
    response = await client.post("/v1/completions", json=body)
    assert response.json() == {"choices": [{"text": "raw", "finish_reason": "stop"}]}
    assert server.asked == [
        ("completions", {"model": "sums", "prompt": ["sums", "more"], "echo": True})
    ]


async def test_completions_of_others_are_answered_as_a_chat(client: httpx.AsyncClient) -> None:
    body = {"model": "coe", "prompt": "lands", "max_tokens": 8}
    whole = await client.post("/v1/completions", json=body)
    assert whole.json()["object"] == "text_completion"
    assert whole.json()["choices"][0]["text"] == "Lima it is"
    options = {"include_usage": True}
    streamed = await client.post(
        "/v1/completions", json={**body, "stream": True, "stream_options": options}
    )
    events = _events(streamed)
    assert "".join(c["text"] for e in events for c in e["choices"]) == "Lima it is"
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert streamed.text.endswith("data: [DONE]\n\n")
    tokens = await client.post("/v1/completions", json={**body, "prompt": [1, 2], "model": "lands"})
    assert tokens.status_code == 400
    assert tokens.json()["error"]["param"] == "prompt[0]"


@pytest.mark.parametrize("model", ["sums", "lands"])
async def test_responses_are_told_and_gone_on_from(client: httpx.AsyncClient, model: str) -> None:
    said = {"sums": "forty", "lands": "Lima it is"}[model]
    first = (await client.post("/v1/responses", json={"model": model, "input": "hi"})).json()
    assert first["output"][0]["content"][0]["text"] == said
    assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
    again = {"model": model, "input": "and?", "previous_response_id": first["id"], "stream": True}
    events = _events(await client.post("/v1/responses", json=again))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == said
    gone = await client.delete(f"/v1/responses/{first['id']}")
    assert gone.json()["deleted"]
    missing = await client.get(f"/v1/responses/{first['id']}")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "response_not_found"


async def test_responses_with_tools_go_to_a_server(
    client: httpx.AsyncClient, server: Server
) -> None:
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    body = {"model": "coe", "input": "lands", "tools": [tool]}
    response = await client.post("/v1/responses", json=body)
    assert response.headers["x-coe-expert"] == "sums"
    route, asked = server.asked[-1]
    assert route == "chat/completions"
    assert asked["tools"][0]["function"]["name"] == "add"


async def test_embeddings_are_passed_through_to_the_expert_named(
    client: httpx.AsyncClient, server: Server
) -> None:
    body = {"model": "sums", "input": ["a", "b"], "dimensions": 1}
    response = await client.post("/v1/embeddings", json=body)
    assert response.json()["data"][0]["embedding"] == [0.5]
    assert server.asked == [("embeddings", body)]
    refused = await client.post("/v1/embeddings", json={**body, "model": "lands"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "model"


async def test_dry_run_tells_the_decision_and_asks_nobody(
    client: httpx.AsyncClient, server: Server
) -> None:
    messages = [{"role": "user", "content": "sums"}]
    told = (await client.post("/v1/route", json={"messages": messages})).json()
    assert told["experts"] == ["sums"]
    assert told["scores"] == {"sums": 1.0, "lands": 0.0}
    assert told["ask"] == "sums"
    assert any("sums scored 1.000" in reason for reason in told["reasons"])
    kept = await client.post(
        "/v1/route", json={"messages": messages, "coe": {"experts": ["lands"]}}
    )
    assert kept.json()["experts"] == ["lands"]
    assert not server.asked
