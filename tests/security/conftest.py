"""Gateways to attack: over an upstream that records what reaches it, with keys and without."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from aiohttp import web

from coe.composition import Composition, Conduct
from coe.engines.base import Engine
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, OpenAISpec, Price, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Policy, Router
from coe.service.app import create_app
from coe.service.settings import ServiceSettings
from coe.store import KeyLimits, Store, StoreSettings, open_store
from coe.types import Query

UPSTREAM_KEY_ENV = "CANARY_UPSTREAM"
UPSTREAM_KEY = "sk-canary-upstream-6f1d"
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@dataclass
class Upstream:
    """An expert's server: every request that reached it, whatever its path and method."""

    status: int = 200
    said: str | None = None
    """What it answers with in place of a completion."""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.raw_path, headers, body))
        if self.said is not None:
            return web.Response(text=self.said, status=self.status)
        return web.json_response(ANSWER, status=self.status)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, _, body in self.requests]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/v1"
    yield server
    await runner.cleanup()


class NamedScorer:
    """An expert scores 1 for each time that its id occurs in the query."""

    name = "named"

    def __init__(self, expert_ids: tuple[str, ...]) -> None:
        self.expert_ids = expert_ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [[float(query.text.count(id_)) for id_ in self.expert_ids] for query in queries]
        )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(StoreSettings(tmp_path / "store"))
    yield store
    await store.close()


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def passing(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """Makes clients of gateways over `server`, whose requests reach the upstream."""
    monkeypatch.setenv(UPSTREAM_KEY_ENV, UPSTREAM_KEY)
    spec = OpenAISpec(upstream.url, model="served-name", api_key_env=UPSTREAM_KEY_ENV)
    engine = OpenAIEngine(Expert("server", spec))
    clients: list[httpx.AsyncClient] = []

    def make(store: Store | None = None, **settings: Any) -> httpx.AsyncClient:
        pool = ExpertPool((Expert("server", spec),))
        composition = Composition(
            Router(NamedScorer(pool.ids), TopK(1), pool), {"server": engine}, conduct=Conduct(0)
        )
        app = create_app(composition, ServiceSettings(**settings), store=store)
        clients.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
    await engine.stop(1.0)


@pytest.fixture
def compose() -> Callable[..., Composition]:
    """Makes compositions of `cheap`, `guarded` and `dear`, which say their names."""

    def build(
        policy: Policy | None = None, conduct: Conduct | None = None, *dead: str
    ) -> Composition:
        prices = {"cheap": 1.0, "guarded": 2.0, "dear": 100.0}
        experts = tuple(
            Expert(
                id_,
                ScriptedSpec(default=id_, fail_after_tokens=0 if id_ in dead else None),
                price=Price(usd_per_mtok_out=usd),
            )
            for id_, usd in prices.items()
        )
        pool = ExpertPool(experts)
        engines: dict[str, Engine] = {expert.id: ScriptedEngine(expert) for expert in experts}
        router = Router(NamedScorer(pool.ids), policy or TopK(1), pool)
        return Composition(router, engines, conduct=conduct or Conduct())

    return build


@pytest.fixture
async def gateway(compose: Callable[..., Composition], store: Store) -> AsyncIterator[Client]:
    """Makes clients of gateways over scripted experts, with a store."""
    clients: list[httpx.AsyncClient] = []

    def make(composition: Composition | None = None, **settings: Any) -> httpx.AsyncClient:
        app = create_app(composition or compose(), ServiceSettings(**settings), store=store)
        clients.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def key(store: Store) -> Callable[..., Any]:
    """Makes the headers of a new key."""

    async def make(name: str = "team", **limits: Any) -> dict[str, str]:
        secret, _ = await store.keys.create(name, KeyLimits(**limits))
        return {"authorization": f"Bearer {secret}"}

    return make
