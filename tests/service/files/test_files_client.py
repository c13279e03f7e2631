"""Files and batches as the official client uses them, against a real socket."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import openai
import orjson
import pytest
from aiohttp import web

from coe.composition import Composition
from coe.engines.base import Engine
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, OpenAISpec, ScriptedSpec
from coe.routers.baselines import RandomScorer
from coe.routers.policies import TopK
from coe.routing import Router
from coe.service.app import create_app
from coe.service.settings import ServiceSettings
from coe.store import KeyLimits, Store, StoreSettings, open_store

CHAT: Final = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ANSWER = b'{"id":"x1",\n "choices":[ {"index":0,"finish_reason":"tool_calls","odd":1.0} ]\r\n}\n'
EMBEDDED = b'{"data":[], "usage":{"prompt_tokens":1,"total_tokens":1}}'
UNTIL_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The gateway closes it."""
    return open_store(StoreSettings(tmp_path / "store"))


@contextmanager
def _client(url: str, key: str = "none") -> Iterator[openai.OpenAI]:
    with (
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http) as client,
    ):
        yield client


def _input(*bodies: dict[str, Any], url: str = CHAT) -> io.BytesIO:
    lines = [
        {"custom_id": f"r{i}", "method": "POST", "url": url, "body": body}
        for i, body in enumerate(bodies)
    ]
    return io.BytesIO(b"\n".join(map(orjson.dumps, lines)))


def _said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}]} | more


def _begun(ai: openai.OpenAI, content: io.BytesIO, endpoint: Any = CHAT) -> Any:
    file = ai.files.create(file=("in.jsonl", content), purpose="batch")
    return ai.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"of": "us"}
    )


def _ended(ai: openai.OpenAI, batch: Any) -> Any:
    until_s = time.monotonic() + UNTIL_S
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < until_s
        batch = ai.batches.retrieve(batch.id)
    return batch


def _lines(ai: openai.OpenAI, file_id: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in ai.files.content(file_id).content.splitlines()]


def test_client_has_a_batch_answered(serve: Any, compose: Any, store: Store) -> None:
    with serve(create_app(compose(), store=store)) as live, _client(live.url) as ai:
        asked = [_said(f"sums: {i} + 1") for i in range(5)] + [_said("broken")]
        batch = _ended(ai, _begun(ai, _input(*asked)))
        assert (batch.status, batch.metadata) == ("completed", {"of": "us"})
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (6, 6, 0)
        answers = _lines(ai, batch.output_file_id)
        texts = [a["response"]["body"]["choices"][0]["message"]["content"] for a in answers]
        assert texts[:5] == [f"{i} plus 1 it is" for i in range(5)]
        output = ai.files.retrieve(batch.output_file_id)
        assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert {file.id for file in ai.files.list()} == {batch.input_file_id, output.id}
        assert ai.files.delete(output.id).deleted
        with pytest.raises(openai.NotFoundError):
            ai.files.content(output.id)
        with pytest.raises(openai.ConflictError):
            ai.batches.cancel(batch.id)


def test_client_walks_through_its_batches(serve: Any, compose: Any, store: Store) -> None:
    with serve(create_app(compose(), store=store)) as live, _client(live.url) as ai:
        ids = [_begun(ai, _input(_said("sums: 1 + 1"))).id for _ in range(5)]
        assert [batch.id for batch in ai.batches.list(limit=2)] == ids[::-1]
        page = ai.batches.list(limit=2, after=ids[3])
        assert [batch.id for batch in page.data] == [ids[2], ids[1]]
        assert page.has_more
        for batch in ai.batches.list():
            _ended(ai, batch)


def test_client_of_another_tenant_sees_nothing(serve: Any, compose: Any, store: Store) -> None:
    async def keys() -> tuple[str, str]:
        one, _ = await store.keys.create("one", KeyLimits())
        other, _ = await store.keys.create("other", KeyLimits())
        return one, other

    one, other = asyncio.run(keys())
    app = create_app(compose(), ServiceSettings(needs_key=True), store=store)
    with serve(app) as live, _client(live.url, one) as ours, _client(live.url, other) as theirs:
        batch = _ended(ours, _begun(ours, _input(_said("sums: 1 + 1"))))
        assert batch.status == "completed"
        asked = (
            lambda: theirs.batches.retrieve(batch.id),
            lambda: theirs.batches.cancel(batch.id),
            lambda: theirs.batches.list(after=batch.id),
            lambda: theirs.files.retrieve(batch.output_file_id),
            lambda: theirs.files.content(batch.output_file_id),
            lambda: theirs.files.delete(batch.input_file_id),
            lambda: theirs.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            ),
        )
        for ask in asked:
            with pytest.raises(openai.NotFoundError):
                ask()
        assert (list(theirs.batches.list()), list(theirs.files.list())) == ([], [])
        assert len(list(ours.files.list())) == 2


async def _answer(request: web.Request) -> web.Response:
    return web.Response(body=ANSWER, content_type="application/json")


async def _embed(request: web.Request) -> web.Response:
    return web.Response(body=EMBEDDED, content_type="application/json")


class Upstream:
    """An expert's server, started with the engine that asks it and ended with it."""

    def __init__(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _answer)
        app.router.add_post("/v1/embeddings", _embed)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def stop(self) -> None:
        await self._runner.cleanup()


@pytest.mark.parametrize("route", ["chat", "embeddings"])
async def test_batch_line_carries_what_only_a_server_understands(
    serve: Any, store: Store, route: str
) -> None:
    """The answer is the server's own, on one line."""
    upstream = Upstream()
    url = await upstream.start()
    experts = (Expert("remote", OpenAISpec(url, model="m")), Expert("near", ScriptedSpec()))
    pool = ExpertPool(experts)
    engines: dict[str, Engine] = {
        "remote": OpenAIEngine(experts[0]),
        "near": ScriptedEngine(experts[1]),
    }
    composition = Composition(Router(RandomScorer(pool.ids), TopK(1), pool), engines)
    embed = {"model": "remote", "input": "text"}
    content, endpoint = _input(_said("add", tools=[TOOL]), _said("2", tools=[TOOL])), CHAT
    if route == "embeddings":
        endpoint = "/v1/embeddings"
        content = _input(embed, embed | {"model": "coe"}, url=endpoint)

    def asked(live_url: str) -> list[dict[str, Any]]:
        with _client(live_url) as ai:
            batch = _ended(ai, _begun(ai, content, endpoint))
            assert batch.status == "completed", batch
            return _lines(ai, batch.output_file_id)

    with serve(create_app(composition, store=store)) as live:
        lines = await asyncio.to_thread(asked, live.url)
    told = {"coe": {"experts": ["remote"], "router": lines[1]["response"]["body"]["coe"]["router"]}}
    expected = orjson.loads(ANSWER if route == "chat" else EMBEDDED)
    assert [line["response"]["body"] for line in lines][1] == expected | told
    assert [line["custom_id"] for line in lines] == ["r0", "r1"]
    await upstream.stop()
