from __future__ import annotations

from typing import Any

import orjson

from coe.service.responses.store import ResponseStore


def response(response_id: str, text: str = "a") -> dict[str, Any]:
    return {"id": response_id, "text": text}


TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
N_BYTES = len(orjson.dumps(response("r0"))) + len(orjson.dumps(TURNS))


def kept(store: ResponseStore, tenant: str, n: int = 9) -> list[str]:
    """Looking changes nothing but the order of use, which is kept by looking in order."""
    return [f"r{i}" for i in range(n) if store.response(tenant, f"r{i}") is not None]


def test_response_store_gives_back_what_was_kept() -> None:
    store = ResponseStore()
    assert store.keep("a", response("r0"), TURNS)
    assert store.response("a", "r0") == response("r0")
    assert store.turns("a", "r0") == TURNS
    assert store.n_bytes == N_BYTES
    given = store.turns("a", "r0")
    assert given is not None
    given.clear()
    assert store.turns("a", "r0") == TURNS


def test_response_store_shows_no_tenant_anothers() -> None:
    store = ResponseStore()
    store.keep("a", response("r0"), TURNS)
    assert store.response("b", "r0") is None
    assert store.turns("b", "r0") is None
    assert not store.forget("b", "r0")
    store.keep("b", response("r0", "other"), TURNS)
    assert store.response("a", "r0") == response("r0")
    assert store.forget("a", "r0")
    assert not store.forget("a", "r0")
    assert store.response("b", "r0") == response("r0", "other")


def test_response_store_forgets_what_was_used_longest_ago() -> None:
    store = ResponseStore(capacity=2)
    for index in range(2):
        store.keep("a", response(f"r{index}"), TURNS)
    store.keep("b", response("r8"), TURNS)
    assert store.turns("a", "r0") == TURNS
    store.keep("a", response("r2"), TURNS)
    assert kept(store, "a") == ["r0", "r2"]
    assert kept(store, "b") == ["r8"]
    assert store.n_bytes == 3 * N_BYTES


def test_response_store_lets_the_largest_tenant_give_way() -> None:
    store = ResponseStore(max_bytes=4 * N_BYTES)
    store.keep("small", response("r0"), TURNS)
    for index in range(6):
        store.keep("large", response(f"r{index}"), TURNS)
        assert store.n_bytes <= 4 * N_BYTES
    assert kept(store, "small") == ["r0"]
    assert kept(store, "large") == ["r3", "r4", "r5"]


def test_response_store_refuses_what_is_too_large() -> None:
    store = ResponseStore(max_bytes=N_BYTES)
    assert store.keep("a", response("r0"), TURNS)
    assert not store.keep("a", response("r1", "long"), TURNS)
    assert kept(store, "a") == ["r0"]


def test_response_store_counts_a_response_that_is_kept_again_once() -> None:
    store = ResponseStore()
    store.keep("a", response("r0", "long text"), TURNS)
    store.keep("a", response("r0"), TURNS)
    assert (len(store), store.n_bytes) == (1, N_BYTES)
    store.forget("a", "r0")
    assert (len(store), store.n_bytes) == (0, 0)
