"""The admin API over a pool that serves: what it shows, what it does, whom it lets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.types import Receive, Scope, Send

from coe.assembly import load_operated
from coe.assembly.reloading import Reloader
from coe.errors import ConfigError
from coe.routing import RoutingDecision
from coe.service.admin.access import AdminKey, Gate, is_address, is_loopback
from coe.service.admin.app import create_admin_app
from coe.service.app import create_app
from coe.service.workers.reloads import reload_here
from coe.types import GenerationRequest, Message

KEY = "a key that nobody guesses"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
POOL = """
experts:
  - {id: a, engine: {kind: scripted, default: a}, footprint: {gib: 1}}
  - {id: lands/b, engine: {kind: scripted, default: b}, footprint: {gib: 1, asleep_gib: 1}}
  - {id: far, engine: {kind: scripted, default: far}}
router: {scorer: random}
local_memory_gib: 1
host_memory_gib: 1
"""
NEW = {"id": "new", "engine": {"kind": "scripted", "default": "I am new"}, "footprint": {"gib": 1}}


class Served:
    """A pool with its gateway and its admin API."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "experts.yaml"
        self.file.write_text(POOL, encoding="utf-8")
        self.composition, self.operator = load_operated(self.file)
        self.gateway = _client(create_app(self.composition))
        reload = partial(reload_here, Reloader(self.operator.served))
        app = create_admin_app(self.operator, AdminKey(KEY), reload=reload)
        self.admin = _client(app, AUTHORIZED)

    async def ask(self, model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return await self.gateway.post("/v1/chat/completions", json=body)

    async def hosting(self, expert_id: str) -> Any:
        return (await self.admin.get(f"/admin/experts/{expert_id}")).json()["hosting"]


def _client(app: Any, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    pool = Served(tmp_path)
    yield pool
    await pool.composition.stop(1.0)


def _message(response: httpx.Response) -> str:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


async def test_state_tells_devices_experts_and_counts(served: Served) -> None:
    assert (await served.ask("a")).status_code == 200
    assert (await served.ask("far")).status_code == 200
    state = (await served.admin.get("/admin/state")).json()
    assert state["devices"] == [{"id": "cpu", "budget_gib": 1.0, "used_gib": 1.0}]
    assert (state["requests"], state["answers"], state["swaps"]["loads"]) == (2, 2, 1)
    a, b, far = state["experts"]
    assert (a["hosting"]["residency"], a["hosting"]["devices"]) == ("awake", ["cpu"])
    assert (b["id"], b["hosting"]["residency"]) == ("lands/b", "disk")
    assert (far["kind"], far["hosting"], far["counts"]["answers"]) == ("scripted", None, 1)
    listed = (await served.admin.get("/admin/experts")).json()
    assert [one["id"] for one in listed["data"]] == ["a", "lands/b", "far"]


async def test_warm_loads_and_stop_sends_away(served: Served) -> None:
    warm = await served.admin.post("/admin/experts/lands/b/warm")
    assert (warm.status_code, warm.json()["expert"]["hosting"]["residency"]) == (200, "awake")
    stopped = await served.admin.post("/admin/experts/lands/b/stop")
    assert (stopped.status_code, stopped.json()["done"]) == (200, True)
    assert (await served.hosting("lands/b"))["residency"] == "disk"
    assert (await served.ask("lands/b")).json()["choices"][0]["message"]["content"] == "b"


async def test_sleep_that_is_not_over_in_time_says_so_and_goes_on(served: Served) -> None:
    decision = RoutingDecision.pinned("a")
    async with served.composition.answering(_request("q"), decision) as answer:
        slow = await served.admin.post("/admin/experts/a/sleep?wait_s=0")
        assert (slow.status_code, slow.json()["done"]) == (202, False)
        hosting = slow.json()["expert"]["hosting"]
        assert (hosting["residency"], hosting["departure"]) == ("awake", "sleep")
        assert "".join([delta.text async for delta in answer.deltas]) == "a"
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await served.hosting("a"))["residency"] == "disk"


async def test_expert_that_is_not_hosted_cannot_be_sent_away(served: Served) -> None:
    response = await served.admin.post("/admin/experts/far/stop")
    assert response.status_code == 400
    assert "there is nothing to send away" in _message(response)


async def test_added_expert_answers_by_name_at_once(served: Served) -> None:
    added = await served.admin.post("/admin/experts", json=NEW)
    assert added.status_code == 201
    assert any("coe fit" in note for note in added.json()["notes"])
    assert any("experts.yaml" in note for note in added.json()["notes"])
    models = (await served.gateway.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["coe", "a", "lands/b", "far", "new"]
    assert (await served.gateway.get("/v1/models/new")).status_code == 200
    assert (await served.ask("new")).json()["choices"][0]["message"]["content"] == "I am new"
    ready = (await served.gateway.get("/readyz")).json()
    assert set(ready["experts"]) == {"a", "lands/b", "far", "new"}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"id": "a"}, 409, "there is an expert 'a'"),
        ({"id": "coe"}, 400, "id: 'coe' is the model name that routes"),
        ({"footprint": {"gib": 7}}, 400, "needs 7 GiB and fits nowhere"),
        ({"engine": {"kind": "scriptd"}}, 400, "did you mean 'scripted'"),
        ({"footprnt": {}}, 400, "footprnt: unknown key 'footprnt'; did you mean 'footprint'?"),
        ({"engine": {"kind": "local", "path": "nowhere"}}, 400, "engine.path: no such file"),
        (
            {"engine": {"kind": "vllm-lora", "base": "a", "path": "."}},
            400,
            "no expert of kind 'vllm'",
        ),
    ],
)
async def test_expert_that_cannot_be_added_is_told_why(
    served: Served, change: dict[str, object], status: int, words: str
) -> None:
    refused = await served.admin.post("/admin/experts", json={**NEW, **change})
    assert refused.status_code == status
    assert words in _message(refused)
    assert len((await served.admin.get("/admin/experts")).json()["data"]) == 3


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
async def test_what_is_no_expert_is_refused(served: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    refused = await served.admin.post("/admin/experts", content=body, headers=headers)
    assert refused.status_code == 400
    assert _message(refused).startswith("the body")


async def test_removed_expert_is_gone_and_the_router_goes_on_without_it(served: Served) -> None:
    for expert_id in ("a", "far"):
        removed = await served.admin.delete(f"/admin/experts/{expert_id}")
        assert (removed.status_code, removed.json()["done"]) == (200, True)
        assert (await served.ask(expert_id)).status_code == 404
    for _ in range(10):
        routed = await served.ask("coe")
        assert (routed.status_code, routed.headers["x-coe-expert"]) == (200, "lands/b")
    assert (await served.admin.delete("/admin/experts/a")).status_code == 404
    last = await served.admin.delete("/admin/experts/lands/b")
    assert (last.status_code, "is the last one" in _message(last)) == (400, True)


async def test_removal_lets_what_runs_end_and_who_waits_is_sent_to_the_next_best(
    served: Served,
) -> None:
    decisions = (served.composition.decide(_request(str(i))) for i in range(100))
    decision = next(one for one in decisions if one.experts == ("a",))
    async with served.composition.answering(_request("q"), decision) as answer:
        removing = asyncio.ensure_future(served.admin.delete("/admin/experts/a?wait_s=0"))
        assert (await removing).status_code == 202
        [left] = [e for e in await _experts(served) if e["id"] == "a"]
        assert (left["is_removed"], left["running"]) == (True, 1)
        again = asyncio.ensure_future(served.composition.complete(_request("q"), decision))
        assert "".join([delta.text async for delta in answer.deltas]) == "a"
    assert (await again).text in ("b", "far")
    for _ in range(20):
        await asyncio.sleep(0)
    assert [e["id"] for e in await _experts(served)] == ["lands/b", "far"]


async def _experts(served: Served) -> Any:
    return (await served.admin.get("/admin/experts")).json()["data"]


def _request(id_: str) -> GenerationRequest:
    return GenerationRequest((Message("user", "hi"),), id=id_)


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer " + KEY[:-1]],
)
@pytest.mark.parametrize("path", ["/admin/state", "/admin/experts", "/", "/nowhere"])
async def test_nothing_is_told_without_the_key(served: Served, given: str, path: str) -> None:
    refused = await served.admin.get(path, headers={"authorization": given})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert KEY not in _message(refused)


async def test_two_keys_are_none(served: Served) -> None:
    headers = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    transport = served.admin._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as twice:
        assert (await twice.get("/admin/state", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8001", 200),
        ("localhost:8001", 200),
        ("[::1]:8001", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8001", 403),
    ],
)
async def test_pages_that_point_a_name_here_are_refused(
    served: Served, host: str, status: int
) -> None:
    assert (await served.admin.get("/admin/state", headers={"host": host})).status_code == status


@pytest.mark.parametrize("host", [None, b"", b"::1", b"[", b"[]", b"\xff:1", b"127.0.0.1@x"])
def test_host_that_is_odd_is_an_address_only_if_it_is_one(host: bytes | None) -> None:
    assert is_address(host) is (host == b"::1")


def test_loopback_is_told_from_the_world() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")


async def test_gate_that_breaks_lets_nobody_in() -> None:
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    class Broken(AdminKey):
        def matches(self, given: bytes) -> bool:
            raise RuntimeError("out of order")

    client = _client(Gate(app, Broken(KEY), is_local=True), AUTHORIZED)
    refused = await client.get("/admin/state")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "access_undecided"
    assert passed == []


@pytest.mark.parametrize("key", ["", "fifteen letters"])
def test_key_that_could_be_guessed_is_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_ADMIN_KEY", key)
    with pytest.raises(ConfigError, match="COE_ADMIN_KEY"):
        AdminKey.taken_from_environment()


def test_key_is_kept_as_a_digest_and_leaves_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setenv("COE_ADMIN_KEY", KEY)
    key = AdminKey.taken_from_environment()
    assert key.matches(KEY.encode())
    assert "COE_ADMIN_KEY" not in os.environ
    assert KEY not in str(vars(key))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/admin/experts/a/explode", 404),
        ("POST", "/admin/experts/b/warm", 404),
        ("POST", "/admin/experts/a/stop?wait_s=soon", 400),
        ("POST", "/admin/experts/a/stop?wait_s=nan", 400),
        ("DELETE", "/admin/experts/b", 404),
        ("GET", "/admin/experts/b", 404),
        ("PUT", "/admin/state", 405),
    ],
)
async def test_call_that_makes_no_sense_is_told_so(
    served: Served, method: str, path: str, status: int
) -> None:
    response = await served.admin.request(method, path)
    assert response.status_code == status
    assert _message(response)


async def test_reload_says_what_has_changed(served: Served) -> None:
    text = POOL.replace("default: far", "default: farther")
    served.file.write_text(text.replace("id: lands/b", "id: c"), encoding="utf-8")
    answer = await served.admin.post("/admin/reload")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "done": True,
            "reloaded": {
                "router": "random/top-1",
                "kept": ["a"],
                "added": ["c"],
                "changed": ["far"],
                "removed": ["lands/b"],
            },
        },
    )
    assert (await served.ask("far")).json()["choices"][0]["message"]["content"] == "farther"


@pytest.mark.parametrize(
    ("changed", "words"),
    [("host_memory_gib: 2", "read at the start only"), ("host_memry: 2", "host_memory_gib")],
)
async def test_reload_of_a_file_that_cannot_be_served_says_why(
    served: Served, changed: str, words: str
) -> None:
    served.file.write_text(POOL.replace("host_memory_gib: 1", changed), encoding="utf-8")
    answer = await served.admin.post("/admin/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_reloaded")
    assert words in _message(answer)
    assert (await served.ask("far")).status_code == 200


async def test_reload_needs_the_key_and_a_gateway_that_can(served: Served) -> None:
    bare = _client(create_admin_app(served.operator, AdminKey(KEY)), AUTHORIZED)
    assert (await bare.post("/admin/reload")).status_code == 404
    unknown = {"authorization": "Bearer somebody"}
    assert (await served.admin.post("/admin/reload", headers=unknown)).status_code == 401
    assert (await served.admin.get("/admin/reload")).status_code == 405


async def test_experts_of_several_workers_are_those_of_the_file(served: Served) -> None:
    served.operator.served.is_alone = False
    for answer in (
        await served.admin.post("/admin/experts", json=NEW),
        await served.admin.delete("/admin/experts/a"),
    ):
        assert answer.status_code == 400
        assert "POST /admin/reload" in _message(answer)
    assert (await served.ask("a")).status_code == 200
