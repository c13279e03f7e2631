"""A gateway with keys: who comes in, what a key may ask, and what it is charged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from coe.composition import Composition
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.service.accounts import cost_usd
from coe.service.app import create_app, gateway_app
from coe.service.gateway import Gateway
from coe.service.settings import ServiceSettings
from coe.service.similar import Similar
from coe.service.visit import Receipt
from coe.store import ApiKey, KeyLimits, Store, StoreSettings, open_store
from coe.store.semantic import SemanticCache
from coe.types import Usage

CHAT = "/v1/chat/completions"
PRICE = Price(usd_per_mtok_in=0.0, usd_per_mtok_out=1e6)
"""A dollar a token of the answer."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(StoreSettings(tmp_path / "store"))
    yield store
    await store.close()


Clients = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def gateway(store: Store, fakes: Any) -> AsyncIterator[Clients]:
    """Makes clients of a gateway over `cheap` and `dear`, that say three words each."""
    clients: list[httpx.AsyncClient] = []
    engines = {}

    def make(**settings: Any) -> httpx.AsyncClient:
        script = ScriptedSpec(default="one two three")
        experts = (
            Expert("cheap", script, max_tokens=5),
            Expert("dear", script, max_tokens=5, price=PRICE),
        )
        pool = ExpertPool(experts)
        engines.update({expert.id: ScriptedEngine(expert) for expert in experts})
        router = Router(fakes.scorer(pool.ids), TopK(1), pool)
        app = create_app(Composition(router, engines), ServiceSettings(**settings), store=store)
        clients.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def _key(store: Store, name: str = "team", **limits: Any) -> tuple[dict[str, str], ApiKey]:
    secret, key = await store.keys.create(name, KeyLimits(**limits))
    return {"authorization": f"Bearer {secret}"}, key


def _body(text: str = "cheap", **fields: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer coe-unknown", "Basic eDp5", "Bearer \xff\x00", "Bearer ' OR 1=1"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/route", "/nowhere"])
async def test_door_is_shut_without_a_key(gateway: Clients, path: str, header: str | None) -> None:
    client = gateway(needs_key=True)
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    response = await client.request("POST", path, json=_body(), headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_door_does_not_go_by_the_host(gateway: Clients) -> None:
    client = gateway(needs_key=True)
    for host in ("a/?x=/healthz", "a/#", "healthz"):
        response = await client.post(CHAT, json=_body(), headers={"host": host})
        assert response.status_code == 401


async def test_door_lets_health_in_and_keys(gateway: Clients, store: Store) -> None:
    client = gateway(needs_key=True)
    headers, _ = await _key(store)
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.post(CHAT, json=_body(), headers=headers)).status_code == 200
    await store.keys.revoke("team")
    assert (await client.post(CHAT, json=_body(), headers=headers)).status_code == 401


async def test_door_stays_shut_where_keys_cannot_be_looked_up(
    gateway: Clients, store: Store
) -> None:
    client = gateway(needs_key=True)
    headers, _ = await _key(store)
    await store.close()
    response = await client.post(CHAT, json=_body(), headers=headers)
    assert response.status_code in (200, 401, 503)
    unknown = {"authorization": "Bearer coe-" + "x" * 43}
    assert (await client.post(CHAT, json=_body(), headers=unknown)).status_code in (401, 503)


async def test_key_asks_only_the_experts_it_may(gateway: Clients, store: Store) -> None:
    client = gateway(needs_key=True)
    headers, _ = await _key(store, experts=("cheap",))
    routed = await client.post(CHAT, json=_body("dear dear"), headers=headers)
    assert routed.headers["x-coe-expert"] == "cheap"
    named = await client.post(CHAT, json=_body(model="dear"), headers=headers)
    assert named.status_code == 404
    wished = _body("x", coe={"experts": ["dear"]})
    assert (await client.post(CHAT, json=wished, headers=headers)).status_code == 400


async def test_key_is_held_to_its_requests_a_minute(gateway: Clients, store: Store) -> None:
    client = gateway(needs_key=True)
    headers, _ = await _key(store, rpm=2)
    first = await client.post(CHAT, json=_body(), headers=headers)
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    await client.post(CHAT, json=_body(), headers=headers)
    refused = await client.post(CHAT, json=_body(), headers=headers)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_budget_pays_for_what_was_said_and_ends(
    gateway: Clients, store: Store, is_streamed: bool
) -> None:
    client = gateway(needs_key=True)
    headers, key = await _key(store, budget_usd=10.0)
    body = _body("dear", stream=is_streamed)
    for spent in (3.0, 6.0):
        assert (await client.post(CHAT, json=body, headers=headers)).status_code == 200
        assert (await store.spend.spent(key)).spent_usd == pytest.approx(spent)
    # Five tokens may come, and four dollars are left.
    refused = await client.post(CHAT, json=body, headers=headers)
    assert refused.status_code == 402
    shorter = await client.post(CHAT, json={**body, "max_tokens": 3}, headers=headers)
    assert shorter.status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_each_of_several_experts_is_paid_at_its_own_price(
    gateway: Clients, store: Store, is_streamed: bool
) -> None:
    client = gateway(needs_key=True)
    headers, key = await _key(store, budget_usd=100.0, tpm=1000)
    body = _body("cheap and dear", stream=is_streamed, coe={"policy": "top-2"})
    response = await client.post(CHAT, json=body, headers=headers)
    assert sorted(response.headers["x-coe-expert"].split(",")) == ["cheap", "dear"]
    # Three words of `dear`; those of `cheap` cost nothing.
    assert (await store.spend.spent(key)).spent_usd == pytest.approx(3.0)
    await store.flush()
    [logged] = await store.decisions.latest(10)
    assert logged.cost_usd == pytest.approx(3.0)
    assert logged.completion_tokens == 6


@pytest.mark.parametrize(
    ("shares", "cost"),
    [
        ([("dear", Usage(9, 2)), ("cheap", Usage(9, 5))], 2.0),
        ([("dear", Usage(9, 2)), ("dear", Usage(9, 5))], 7.0),
        ([("cheap", Usage(9, 2)), ("dear", None)], 4.0),
        ([("cheap", Usage(9, 2))], None),
    ],
)
def test_share_that_nobody_counted_costs_what_was_guessed(
    shares: list[tuple[str, Usage | None]], cost: float | None
) -> None:
    pool = ExpertPool(
        (Expert("cheap", ScriptedSpec()), Expert("dear", ScriptedSpec(), price=PRICE))
    )
    receipt = Receipt(("cheap", "dear"), has_begun=True, shares=shares)
    assert cost_usd(receipt, pool, guess=Usage(0, 4)) == cost
    is_counted = all(usage is not None for _, usage in shares)
    assert cost_usd(receipt, pool) == (cost if is_counted else None)


async def test_request_that_fails_is_not_paid_for(gateway: Clients, store: Store) -> None:
    client = gateway(needs_key=True)
    headers, key = await _key(store, budget_usd=10.0, tpm=1000)
    refused = await client.post(CHAT, json=_body(model="nobody"), headers=headers)
    assert refused.status_code == 404
    standing = await store.spend.spent(key)
    assert (standing.spent_usd, standing.reserved_usd) == (0.0, 0.0)


async def test_cache_tells_an_answer_again_to_the_same_tenant(
    gateway: Clients, store: Store
) -> None:
    client = gateway(needs_key=True, caches=True)
    mine, _ = await _key(store, "mine")
    yours, _ = await _key(store, "yours")
    first = await client.post(CHAT, json=_body(), headers=mine)
    again = await client.post(CHAT, json=_body(), headers=mine)
    assert [r.headers["x-coe-cache"] for r in (first, again)] == ["miss", "hit"]
    assert again.content == first.content
    assert again.headers["x-coe-expert"] == "cheap"
    other = await client.post(CHAT, json=_body(), headers=yours)
    assert other.headers["x-coe-cache"] == "miss"
    fresh = await client.post(CHAT, json=_body(coe={"cache": "skip"}), headers=mine)
    assert "x-coe-cache" not in fresh.headers
    changed = await client.post(CHAT, json=_body(temperature=0.5), headers=mine)
    assert changed.headers["x-coe-cache"] == "miss"


async def test_cache_keeps_streams_and_no_failures(gateway: Clients, store: Store) -> None:
    client = gateway(caches=True)
    body = _body(stream=True)
    first = await client.post(CHAT, json=body)
    again = await client.post(CHAT, json=body)
    assert again.headers["x-coe-cache"] == "hit"
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    for _ in range(2):
        wrong = await client.post(CHAT, json=_body(model="nobody"))
        assert wrong.status_code == 404


async def test_decisions_are_logged_without_what_was_asked(gateway: Clients, store: Store) -> None:
    client = gateway(needs_key=True)
    headers, _ = await _key(store)
    await client.post(CHAT, json=_body("dear SECRET"), headers=headers)
    await store.flush()
    [logged] = await store.decisions.latest(10)
    assert (logged.tenant, logged.experts, logged.router) == ("team", ("dear",), "named")
    assert logged.cost_usd == pytest.approx(3.0)
    assert logged.text is None


async def test_near_asks_are_answered_where_that_is_wanted(
    store: Store, fakes: Any, compose: Any
) -> None:
    def encode(texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts), 1), np.float32)

    gateway = Gateway(compose(), ServiceSettings(caches=True), store=store)
    gateway.similar = Similar(SemanticCache(1), encode)
    app = gateway_app(gateway)

    async def how(text: str, **fields: Any) -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
            response = await client.post(CHAT, json=_body(text, **fields))
            return response.headers["x-coe-cache"]

    assert await how("sums: what is 1 + 2?") == "miss"
    assert await how("please, sums: what is 1 + 2?") == "near"
    assert await how("sums: what is 1 + 3?") == "miss"
    assert await how("sums: what is not 1 + 2?") == "miss"
    assert await how("please, sums: what is 1 + 2?", temperature=0.5) == "miss"


async def test_key_has_its_requests_go_no_more_urgently_than_it_may(
    store: Store, fakes: Any
) -> None:
    expert = Expert("one", ScriptedSpec(default="hi"))
    engine, pool = ScriptedEngine(expert), ExpertPool((expert,))
    router = Router(fakes.scorer(pool.ids), TopK(1), pool)
    app = create_app(
        Composition(router, {"one": engine}), ServiceSettings(needs_key=True), store=store
    )
    low, _ = await _key(store, "low", max_priority=-3)
    free, _ = await _key(store, "free")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
        for headers, fields in (
            (low, {"coe": {"priority": 9}}),
            (low | {"x-coe-priority": "5"}, {}),
            (low, {}),
            (low, {"coe": {"priority": -7}}),
            (free, {"coe": {"priority": 9}}),
        ):
            answer = await client.post(CHAT, json=_body("hi", **fields), headers=headers)
            assert answer.status_code == 200
    assert [request.priority for request in engine.requests] == [-3, -3, -3, -7, 9]


async def test_limited_key_is_told_of_no_expert_beyond_it(store: Store, gateway: Clients) -> None:
    client = gateway(needs_key=True)
    limited, _ = await _key(store, "limited", experts=("cheap", "since-removed"))
    answer = await client.post(CHAT, json=_body("dear"), headers=limited)
    assert (answer.status_code, answer.headers["x-coe-expert"]) == (200, "cheap")
    assert answer.headers["x-coe-scores"] == "cheap=0"
    for body in (
        _body(model="since-removed"),
        _body(model="dear"),
        _body(coe={"experts": ["since-removed"]}),
        _body(coe={"experts": ["dear"]}),
        _body(coe={"policy": "top-1:experts=nosuch"}),
        _body(coe={"policy": "top-1:experts=dear"}),
    ):
        refused = await client.post(CHAT, json=body, headers=limited)
        assert 400 <= refused.status_code < 500
        told = str(refused.json()) + str(dict(refused.headers))
        assert "dear" not in told or "dear" in str(body), "what it named itself is no news"
    everybody, _ = await _key(store, "all")
    answer = await client.post(CHAT, json=_body("dear"), headers=everybody)
    assert answer.headers["x-coe-scores"] == "dear=1,cheap=0"


async def test_policy_of_a_request_asks_no_more_experts_than_it_may(
    store: Store, gateway: Clients
) -> None:
    client = gateway()
    answer = await client.post(CHAT, json=_body(coe={"policy": "top-16"}))
    assert sorted(answer.headers["x-coe-expert"].split(",")) == ["cheap", "dear"], "all there are"
    for path in (CHAT, "/v1/route"):
        refused = await client.post(path, json=_body(coe={"policy": "top-17"}))
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "coe.policy: k is 16 at most, not 17"
