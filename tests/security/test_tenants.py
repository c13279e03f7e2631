"""S13: nothing of one tenant is told to another, kept for another or decides for another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.composition import Conduct
from coe.service.calls import read_call
from coe.service.control import UNSAID
from coe.store import cache_key

CHAT = "/v1/chat/completions"


def _body(text: str = "cheap", **fields: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}], **fields}


async def test_answer_is_never_told_again_to_another_tenant(gateway: Any, key: Any) -> None:
    """S13: the cache."""
    client = gateway(needs_key=True, caches=True)
    mine, yours = await key("mine"), await key("yours")
    assert (await client.post(CHAT, json=_body(), headers=mine)).headers["x-coe-cache"] == "miss"
    assert (await client.post(CHAT, json=_body(), headers=mine)).headers["x-coe-cache"] == "hit"
    for number, said in enumerate(
        (
            {},
            {"x-coe-tenant": "mine"},
            {"openai-organization": "mine"},
            {"x-request-id": "mine"},
        )
    ):
        # A request that the one tenant has an answer to, and the other asks for the first time.
        body = _body(f"cheap {number}", user="mine", metadata={"tenant": "mine"})
        assert (await client.post(CHAT, json=body, headers=mine)).status_code == 200
        told = await client.post(CHAT, json=body, headers={**yours, **said})
        assert told.headers["x-coe-cache"] == "miss"
    assert (await client.post(CHAT, json=_body(), headers=yours)).headers["x-coe-cache"] == "miss"
    assert (await client.post(CHAT, json=_body(), headers=yours)).headers["x-coe-cache"] == "hit"


async def test_key_that_may_ask_less_is_not_told_what_another_of_its_tenant_was(
    gateway: Any, key: Any
) -> None:
    """S13: two keys of one tenant share answers only where both may have asked for them."""
    client = gateway(needs_key=True, caches=True)
    whole, limited = await key("team"), await key("team", experts=("cheap",))
    dear = await client.post(CHAT, json=_body("dear"), headers=whole)
    assert dear.headers["x-coe-expert"] == "dear"
    other = await client.post(CHAT, json=_body("dear"), headers=limited)
    assert (other.headers["x-coe-cache"], other.headers["x-coe-expert"]) == ("miss", "cheap")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
_KEYED = st.tuples(
    st.dictionaries(st.text(max_size=4), _JSON, max_size=3),
    st.text(max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
    st.text(max_size=3),
)


@given(one=_KEYED, other=_KEYED)
def test_cache_key_tells_apart_whatever_differs(one: Any, other: Any) -> None:
    """S13: request, tenant, revisions and router are fields of the key, not text run together.

    Experts are a set: in which order they stand does not matter.
    """
    told = [
        json.dumps([request, tenant, sorted(set(revisions)), router], sort_keys=True)
        for request, tenant, revisions, router in (one, other)
    ]
    assert (cache_key(*one) == cache_key(*other)) == (told[0] == told[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({"a": "b"}, "tc", [], "r"), ({"a": "b"}, "t", ["c"], "r")),
        (({}, "t", ["ab"], "r"), ({}, "t", ["a", "b"], "r")),
        (({}, "t\x1fr", [], ""), ({}, "t", [], "\x1fr")),
        (({"n": 1}, "t", [], "r"), ({"n": "1"}, "t", [], "r")),
        (({"n": 1}, "t", [], "r"), ({"n": True}, "t", [], "r")),
        (({"n": None}, "t", [], "r"), ({}, "t", [], "r")),
        (({"a": {"b": 1}}, "t", [], "r"), ({"a.b": 1}, "t", [], "r")),
    ],
)
def test_cache_keys_that_were_made_to_collide_do_not(one: Any, other: Any) -> None:
    """S13: boundaries moved, types swapped, empty against missing."""
    assert cache_key(*one) != cache_key(*other)


async def test_response_of_another_tenant_is_not_there(gateway: Any, key: Any) -> None:
    """S13: the responses store, by reading, going on and deleting."""
    client = gateway(needs_key=True)
    mine, yours = await key("mine"), await key("yours")
    first = await client.post(
        "/v1/responses", json={"model": "coe", "input": "cheap secret"}, headers=mine
    )
    response_id = first.json()["id"]
    assert (await client.get(f"/v1/responses/{response_id}", headers=yours)).status_code == 404
    on = {"model": "coe", "input": "go on", "previous_response_id": response_id}
    assert (await client.post("/v1/responses", json=on, headers=yours)).status_code == 400
    assert (await client.delete(f"/v1/responses/{response_id}", headers=yours)).status_code == 404
    assert (await client.get(f"/v1/responses/{response_id}", headers=mine)).status_code == 200
    assert (await client.post("/v1/responses", json=on, headers=mine)).status_code == 200


async def test_file_and_batch_of_another_tenant_are_not_there(gateway: Any, key: Any) -> None:
    """S13: files and batches, by every call that takes an id, and in every list."""
    client = gateway(needs_key=True)
    mine, yours = await key("mine"), await key("yours")
    line = {"custom_id": "1", "method": "POST", "url": CHAT, "body": _body()}
    kept = await client.post(
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("a.jsonl", json.dumps(line).encode())},
        headers=mine,
    )
    file_id = kept.json()["id"]
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    made = await client.post("/v1/batches", json=asked, headers=mine)
    assert made.status_code == 200, made.text
    batch_id = made.json()["id"]
    for method, path in (
        ("GET", f"/v1/files/{file_id}"),
        ("GET", f"/v1/files/{file_id}/content"),
        ("DELETE", f"/v1/files/{file_id}"),
        ("GET", f"/v1/batches/{batch_id}"),
        ("POST", f"/v1/batches/{batch_id}/cancel"),
    ):
        response = await client.request(method, path, headers=yours)
        assert response.status_code == 404, (method, path)
    assert (await client.post("/v1/batches", json=asked, headers=yours)).status_code in (400, 404)
    for path in ("/v1/files", "/v1/batches"):
        assert (await client.get(path, headers=yours)).json()["data"] == []
        assert len((await client.get(path, headers=mine)).json()["data"]) == 1
        after = await client.get(path, params={"after": file_id}, headers=yours)
        assert file_id not in after.text or after.status_code == 404


async def test_session_of_another_tenant_decides_nothing(
    compose: Any, gateway: Any, key: Any
) -> None:
    """S13: a conversation's name is its tenant's own, and so is who knows it."""
    client = gateway(compose(None, Conduct(switch_cost=0.5)), needs_key=True)
    mine, yours = await key("mine"), await key("yours")

    async def asked(headers: dict[str, str], model: str = "coe") -> str:
        body = _body("nobody's name", coe={"affinity": "s"}, model=model)
        return str((await client.post(CHAT, json=body, headers=headers)).headers["x-coe-expert"])

    assert await asked(yours) == "cheap"
    assert await asked(mine, "dear") == "dear"
    assert await asked(mine) == "dear"  # the conversation is known there
    assert await asked(yours) == "cheap"


@given(
    tenant=st.text(max_size=5),
    other=st.text(max_size=5),
    name=st.text(min_size=1, max_size=5),
)
def test_session_names_of_tenants_never_meet(tenant: str, other: str, name: str) -> None:
    """S13: for any tenants that keys can have; their names hold no separator."""
    raw = {**_body("hello"), "prompt_cache_key": name}

    def session(of: str) -> str | None:
        return read_call(raw, UNSAID, of.replace("\x1f", "")).generation.session

    is_same = tenant.replace("\x1f", "") == other.replace("\x1f", "")
    assert (session(tenant) == session(other)) == is_same
