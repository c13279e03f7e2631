"""A clock that is set by hand, a database in a folder of its own, and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from coe.store import ledger_limits, ledger_spend
from coe.store.database import Database
from coe.store.keys import ApiKey, KeyLimits
from coe.store.ledger import Ledger
from coe.store.link import RedisLink
from coe.store.own_redis import OwnRedis, redis_binary

NOON = 1_772_539_200.0
"""2026-03-03 12:00 UTC."""


@pytest.fixture
def clock() -> SimpleNamespace:
    """`now_s` is what it shows."""
    return SimpleNamespace(now_s=NOON)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "store.db")
    yield opened
    opened.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """What the processes of a gateway agree on; every table of it."""
    opened = Ledger(tmp_path / "ledger.db", (*ledger_limits.TABLES, *ledger_spend.TABLES))
    yield opened
    opened.close()


@pytest.fixture
def key_with() -> Callable[..., ApiKey]:
    """A key with these limits, which is written nowhere."""

    def key(name: str = "acme", **limits: object) -> ApiKey:
        return ApiKey(f"key_{name}", name, name.encode(), NOON, KeyLimits(**limits))  # type: ignore[arg-type]

    return key


@pytest.fixture(scope="session")
def redis_process() -> Iterator[OwnRedis | None]:
    binary = redis_binary()
    if binary is None:
        yield None
        return
    with OwnRedis(binary) as redis:
        yield redis


@pytest.fixture
def redis(redis_process: OwnRedis | None) -> Iterator[OwnRedis]:
    """Running, and empty."""
    running = _required(redis_process)
    running.kill()
    running.start()
    yield running
    running.resume()


@pytest.fixture
async def open_link(
    redis_process: OwnRedis | None,
) -> AsyncIterator[Callable[..., Awaitable[RedisLink]]]:
    """Opens ways to that Redis, empty at first, as patient as a busy machine needs."""
    async with AsyncExitStack() as stack:
        links: list[RedisLink] = []

        async def opened(timeout_s: float = 10.0, **options: object) -> RedisLink:
            link = RedisLink(_required(redis_process).url, timeout_s, **options)  # type: ignore[arg-type]
            stack.push_async_callback(link.close)
            links.append(link)
            if len(links) == 1:
                await link.ask(lambda client: client.flushall())
            return link

        yield opened


def _required(redis: OwnRedis | None) -> OwnRedis:
    if redis is None:
        pytest.skip("NOT TESTED WITH REDIS: install a redis-server that is on the PATH")
    redis.start()
    return redis
