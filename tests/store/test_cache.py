"""Exact responses: one request, one key; never another tenant's; bounded; gone when old."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.store.cache import CachedResponse, MemoryCache, ResponseCache, cache_key
from coe.store.link import RedisLink
from coe.store.redis_cache import SharedCache, decoded, encoded

OpenLink = Callable[..., Awaitable[RedisLink]]
ANSWER = CachedResponse(b'{"ok":\n true}', ((b"content-type", b"text/\xe9"), (b"x-coe", b"")))
KEY = "0" * 64

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Bodies are read from bytes, which cannot hold half of a character.
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
REQUESTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


@pytest.fixture(params=["memory", "redis"])
async def cache(
    request: pytest.FixtureRequest, clock: SimpleNamespace, open_link: OpenLink
) -> ResponseCache:
    if request.param == "memory":
        return MemoryCache(10_000, 60.0, 5_000, lambda: clock.now_s)
    return SharedCache(await open_link(), 60.0, 5_000)


async def test_response_comes_back_as_it_was(cache: ResponseCache) -> None:
    assert await cache.get(KEY) is None
    await cache.put(KEY, ANSWER)
    assert await cache.get(KEY) == ANSWER
    assert await cache.get("1" * 64) is None
    await cache.put(KEY, CachedResponse(b"newer"))
    assert await cache.get(KEY) == CachedResponse(b"newer")


async def test_response_that_is_too_large_is_not_kept(cache: ResponseCache) -> None:
    await cache.put(KEY, CachedResponse(b"x" * 5_001))
    assert await cache.get(KEY) is None
    await cache.put(KEY, CachedResponse(b"x" * 5_000))
    assert await cache.get(KEY) is not None


async def test_old_response_is_gone(clock: SimpleNamespace) -> None:
    cache = MemoryCache(10_000, 60.0, monotonic=lambda: clock.now_s)
    await cache.put(KEY, ANSWER)
    clock.now_s += 59.9
    assert await cache.get(KEY) == ANSWER  # being asked for does not make it younger
    clock.now_s += 0.2
    assert await cache.get(KEY) is None
    assert cache.n_bytes == 0


async def test_redis_forgets_old_responses_by_itself(open_link: OpenLink) -> None:
    link = await open_link()
    await SharedCache(link, 60.0, 5_000).put(KEY, ANSWER)
    left_ms = await link.ask(lambda client: client.pttl(f"coe:cache:{KEY}"))
    assert 50_000 < left_ms <= 60_000


async def test_response_that_is_asked_for_outlives_the_others() -> None:
    cache = MemoryCache(3_000, 60.0)
    for key in "abc":
        await cache.put(key, CachedResponse(b"x" * 600))
    await cache.get("a")
    await cache.put("d", CachedResponse(b"x" * 600))
    assert await cache.get("b") is None
    assert await cache.get("a") is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.just(0) | st.integers(300, 650)), max_size=60))
def test_memory_cache_follows_the_model(steps: list[tuple[int, int]]) -> None:
    """A size of 0 asks; others keep so many bytes."""
    cache = MemoryCache(3_000, 1e9, 600)
    model: OrderedDict[str, int] = OrderedDict()

    async def run() -> None:
        for n, size in steps:
            key = str(n)
            if size == 0:
                found = await cache.get(key)
                assert (len(found.body) if found else None) == model.get(key)
                if key in model:
                    model.move_to_end(key)
                continue
            await cache.put(key, CachedResponse(b"x" * size))
            model.pop(key, None)
            if size <= 600:
                model[key] = size
            while sum(model.values()) + 400 * len(model) > 3_000:
                model.popitem(last=False)
            assert cache.n_bytes == sum(model.values()) + 400 * len(model)
        assert len(cache) == len(model)

    asyncio.run(run())


def _keyed(request: dict[str, Any]) -> str:
    return cache_key(request, "acme", ("math@1",), "router@1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": {"c": 2, "d": 3}}', '{"b": {"d": 3, "c": 2}, "a": 1}'),
        ('{"t": 1}', '{"t": 1.0}'),
        ('{"t": 100}', '{"t": 1e2}'),
        ('{"t": 0}', '{"t": -0.0}'),
        ('{"t": 0.5}', '{"t": 5E-1}'),
        ('{"t": "\\u00e9"}', '{"t": "é"}'),
    ],
)
def test_requests_that_are_the_same_have_one_key(one: str, other: str) -> None:
    assert _keyed(json.loads(one)) == _keyed(json.loads(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"t": 1}', '{"t": "1"}'),
        ('{"t": 1}', '{"t": true}'),
        ('{"t": 0}', '{"t": false}'),
        ('{"t": null}', "{}"),
        ('{"t": [1, 2]}', '{"t": [2, 1]}'),
        ('{"t": [[1], 2]}', '{"t": [1, [2]]}'),
        ('{"t": 9007199254740993}', '{"t": 9007199254740992.0}'),
        ('{"t": "a"}', '{"t": "a "}'),
        ('{"t": "é"}', '{"t": "e\u0301"}'),
    ],
)
def test_requests_that_differ_have_two_keys(one: str, other: str) -> None:
    assert _keyed(json.loads(one)) != _keyed(json.loads(other))


@settings(max_examples=50, deadline=None)
@given(REQUESTS, REQUESTS)
def test_keys_are_equal_just_where_requests_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (_keyed(one) == _keyed(other)) == (_typed(one) == _typed(other))
    assert _keyed(one) == _keyed(json.loads(json.dumps(one)))


def _typed(value: Any) -> Any:
    """Python holds True and 1 for equal; JSON does not."""
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return (isinstance(value, bool), value)


PARTS = st.tuples(st.text(max_size=6), st.lists(st.text(max_size=6), max_size=3), st.text())


@given(PARTS, PARTS)
def test_who_asks_and_what_answers_are_in_the_key(
    one: tuple[str, list[str], str], other: tuple[str, list[str], str]
) -> None:
    keys = [cache_key({}, tenant, experts, router) for tenant, experts, router in (one, other)]
    is_same = one[0] == other[0] and set(one[1]) == set(other[1]) and one[2] == other[2]
    assert (keys[0] == keys[1]) == is_same


@pytest.mark.parametrize("tenant", ["acme1", "acm", "acme:", "ACME", "acme\x00", "router@1"])
async def test_two_tenants_never_share(cache: ResponseCache, tenant: str) -> None:
    """Not even where the rest of the parts would make up for the name."""
    request = {"model": "coe", "messages": [{"role": "user", "content": "hello"}]}
    await cache.put(cache_key(request, "acme", ("math@1",), "router@1"), ANSWER)
    for experts, router in ((("math@1",), "router@1"), (("math@1", "acme"), ""), ((), "math@1")):
        assert await cache.get(cache_key(request, tenant, experts, router)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1: 2}, object()])
def test_what_is_not_json_has_no_key(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        _keyed({"a": value})


@given(st.binary(max_size=100))
def test_what_others_put_into_redis_is_no_response(entry: bytes) -> None:
    assert decoded(KEY, entry) is None


def test_entry_is_taken_only_under_its_own_key() -> None:
    entry = encoded(KEY, ANSWER)
    assert decoded(KEY, entry) == ANSWER
    assert decoded("1" * 64, entry) is None
    assert decoded(KEY, entry.split(b"\n")[0]) is None
    assert decoded(KEY, json.dumps([KEY, [["a", "\u20ac"]]]).encode() + b"\n") is None


async def test_without_redis_nothing_is_cached() -> None:
    link = RedisLink("unix:///nowhere/socket")
    cache = SharedCache(link, 60.0, 5_000)
    await cache.put(KEY, ANSWER)
    assert await cache.get(KEY) is None
    assert link.trouble is not None
    await link.close()
