"""The store as a whole: what a request asks of it, with Redis, without, and in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coe.errors import BudgetExceeded, ConfigError, RateLimited, StoreError
from coe.store import (
    CachedResponse,
    KeyLimits,
    LoggedDecision,
    Store,
    StoreSettings,
    cache_key,
    open_keys,
    open_store,
)
from coe.store.own_redis import OwnRedis

LIMITS = KeyLimits(rpm=1000, tpm=100_000, budget_usd=1.0)


@asynccontextmanager
async def _opened(path: Path | None = None, redis_url: str | None = None) -> AsyncIterator[Store]:
    store = open_store(StoreSettings(path, redis_url, redis_timeout_s=1.0, redis_retry_s=0.01))
    try:
        yield store
    finally:
        await store.close()


async def _ask(store: Store, header: bytes) -> bool:
    """All that a request asks; whether it was answered from the cache."""
    key = await store.keys.find(header)
    assert key is not None
    await store.limits.take(key, 100)
    cached_as = cache_key({"q": 1}, key.tenant, ("math@1",), "router@1")
    if await store.cache.get(cached_as) is not None:
        return True
    reservation = await store.spend.reserve(key, 0.01)
    await store.cache.put(cached_as, CachedResponse(b"answer"))
    await store.spend.settle(reservation, 0.005)
    await store.limits.correct(key, 100, 50)
    store.decisions.add(LoggedDecision("req", key.tenant, "ensemble", "top-1", ("math",), 0.1))
    return False


async def test_store_without_anything_serves_requests() -> None:
    async with _opened() as store:
        token, key = await store.keys.create("acme", LIMITS)
        header = f"Bearer {token}".encode()
        assert not await _ask(store, header)
        assert await _ask(store, header)
        await store.flush()
        assert len(await store.decisions.latest()) == 1
        assert (await store.spend.spent(key)).spent_usd == 0.005
        health = await store.health()
        assert (health.redis, health.is_whole, health.n_lost_rows) == ("off", True, 0)


async def test_temporary_store_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with _opened():
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


async def test_store_outlives_a_restart(tmp_path: Path) -> None:
    async with _opened(tmp_path / "state") as store:
        token, _ = await store.keys.create("acme", LIMITS)
        await _ask(store, f"Bearer {token}".encode())
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    async with _opened(tmp_path / "state") as store:
        key = await store.keys.find(f"Bearer {token}".encode())
        assert key is not None
        assert (await store.spend.spent(key)).spent_usd == 0.005
        assert len(await store.decisions.latest()) == 1


async def test_two_gateways_need_two_folders(tmp_path: Path) -> None:
    async with _opened(tmp_path):
        with pytest.raises(ConfigError, match="another gateway keeps its state here"):
            open_store(StoreSettings(tmp_path))
        async with open_keys(tmp_path) as keys:  # as a command does
            await keys.create("acme", LIMITS)


async def test_command_says_if_replicas_were_not_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="other replicas hear of it once a gateway"):
        async with open_keys(tmp_path, "unix:///nowhere/socket") as keys:
            await keys.create("acme", LIMITS)
    async with open_keys(tmp_path) as keys:
        assert len(await keys.all()) == 1


async def test_replicas_agree(tmp_path: Path, redis: OwnRedis) -> None:
    async with _opened(tmp_path / "1", redis.url) as one, _opened(tmp_path / "2", redis.url) as two:
        token, key = await one.keys.create("acme", KeyLimits(rpm=3, budget_usd=0.03))
        header = f"Bearer {token}".encode()
        assert not await _ask(one, header)
        assert await _ask(two, header)
        held = await two.spend.reserve(key, 0.02)
        with pytest.raises(BudgetExceeded):
            await one.spend.reserve(key, 0.02)
        await two.spend.settle(held, 0.0)
        await one.limits.take(key, 1)
        with pytest.raises(RateLimited):
            await two.limits.take(key, 1)
        assert (await one.health()).redis == "up"


@pytest.mark.parametrize("fault", ["killed", "hangs"])
async def test_no_request_fails_because_redis_does(
    tmp_path: Path, redis: OwnRedis, fault: str
) -> None:
    async with _opened(tmp_path, redis.url) as store:
        token, key = await store.keys.create("acme", LIMITS)
        header = f"Bearer {token}".encode()
        await _ask(store, header)
        redis.kill() if fault == "killed" else redis.pause()
        answered = await asyncio.gather(*(_ask(store, header) for _ in range(20)))
        assert not any(answered)  # nothing is cached meanwhile
        health = await store.health()
        assert (health.redis, health.is_whole) == ("away", False)
        assert health.redis_trouble
        with pytest.raises(BudgetExceeded):  # budgets hold all the same
            await store.spend.reserve(key, 0.9)
        redis.start() if fault == "killed" else redis.resume()
        async with asyncio.timeout(20.0):
            while (await store.health()).redis != "up":
                await asyncio.sleep(0.01)
        assert (await store.spend.spent(key)).spent_usd >= 0.1
        await _ask(store, header)
        assert await _ask(store, header)


@pytest.mark.parametrize("name", ["redis_timeout_s", "cache_ttl_s", "decisions_rows"])
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: must be more than 0"):
        StoreSettings(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cache_bytes: must not be negative"):
        StoreSettings(cache_bytes=-1)


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used for state"):
        open_store(StoreSettings(tmp_path / "file" / "state"))
