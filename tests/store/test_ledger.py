"""Several processes of one gateway: what they may use together, and what is left when one dies."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from coe.errors import BudgetExceeded, ConfigError, RateLimited
from coe.store import KeyLimits, Store, StoreSettings, held_store, open_store
from coe.store.keys import ApiKey
from coe.store.ledger import Ledger, LedgerAway
from coe.store.ledger_limits import LedgerLimits
from coe.store.ledger_responses import TABLES, LedgerResponses
from coe.store.limits import MemoryLimits
from coe.store.own_redis import OwnRedis

KeyWith = Callable[..., ApiKey]
Open = Callable[[int], Store]


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the store of the worker in a place, as many times as one is started there."""
    async with AsyncExitStack() as stack:
        stack.enter_context(held_store(tmp_path))

        def opened(worker: int) -> Store:
            store = open_store(StoreSettings(tmp_path, worker=worker))
            stack.push_async_callback(store.close)
            return store

        yield opened


async def test_worker_knows_a_key_that_another_one_has_made(workers: Open) -> None:
    one, other = workers(0), workers(1)
    token, key = await one.keys.create("acme", KeyLimits())
    await asyncio.sleep(0.11)  # unknown keys are looked for so often
    assert await other.keys.find(f"Bearer {token}".encode()) == key


async def test_workers_hold_a_key_to_one_rate(workers: Open, key_with: KeyWith) -> None:
    stores, key = [workers(0), workers(1)], key_with(rpm=10, tpm=1000)
    for number in range(10):
        left = await stores[number % 2].limits.take(key, 10)
        assert (left.requests, left.tokens) == (9 - number, 990 - 10 * number)
    for store in stores:
        with pytest.raises(RateLimited, match="10 requests a minute"):
            await store.limits.take(key, 10)
    await stores[0].limits.correct(key, 100, 0)


async def test_workers_hold_a_key_to_one_budget(workers: Open, key_with: KeyWith) -> None:
    one, other, key = workers(0), workers(1), key_with(budget_usd=1.0)
    running = await one.spend.reserve(key, 0.6)
    with pytest.raises(BudgetExceeded, match="running requests may cost"):
        await other.spend.reserve(key, 0.6)
    await one.spend.settle(running, 0.5)
    standing = await other.spend.spent(key)
    assert (standing.spent_usd, standing.reserved_usd) == (0.5, 0.0)
    await other.spend.settle(await other.spend.reserve(key, 0.5), 0.5)
    for store in (one, other):
        with pytest.raises(BudgetExceeded):
            await store.spend.reserve(key, 0.001)


async def test_what_workers_spent_is_counted_by_however_many_come_later(
    tmp_path: Path, key_with: KeyWith
) -> None:
    key = key_with(budget_usd=1.0)
    with held_store(tmp_path):
        for worker in range(3):
            store = open_store(StoreSettings(tmp_path, worker=worker))
            await store.spend.settle(await store.spend.reserve(key, 0.1), 0.1)
            await store.close()
    alone = open_store(StoreSettings(tmp_path))
    assert (await alone.spend.spent(key)).spent_usd == pytest.approx(0.3)
    await alone.spend.settle(await alone.spend.reserve(key, 0.2), 0.2)
    await alone.close()
    with held_store(tmp_path):
        store = open_store(StoreSettings(tmp_path, worker=1))
        assert (await store.spend.spent(key)).spent_usd == pytest.approx(0.5)
        await store.close()


async def test_worker_that_replaces_a_killed_one_knows_what_that_had_spent(
    workers: Open, key_with: KeyWith
) -> None:
    key = key_with(budget_usd=1.0)
    killed, other = workers(1), workers(0)
    await killed.spend.settle(await killed.spend.reserve(key, 0.4), 0.4)
    await killed.spend.reserve(key, 0.6)  # under way when it is killed
    assert (await other.spend.spent(key)).reserved_usd == 0.6
    again = workers(1)
    standing = await again.spend.spent(key)
    assert (standing.spent_usd, standing.reserved_usd) == (0.4, 0.0)
    await again.spend.settle(await again.spend.reserve(key, 0.1), 0.1)
    assert (await other.spend.spent(key)).spent_usd == 0.5


async def test_workers_of_replicas_are_held_to_one_budget_by_redis(
    tmp_path: Path, redis: OwnRedis, key_with: KeyWith
) -> None:
    key = key_with(rpm=5, budget_usd=1.0)
    async with AsyncExitStack() as stack:
        stores = []
        for folder in (tmp_path / "one", tmp_path / "other"):
            stack.enter_context(held_store(folder))
            for worker in range(2):
                settings = StoreSettings(folder, redis.url, redis_timeout_s=5.0, worker=worker)
                stores.append(open_store(settings))
                stack.push_async_callback(stores[-1].close)
        for store in stores:
            await store.limits.take(key, 1)
            await store.spend.settle(await store.spend.reserve(key, 0.2), 0.2)
        assert [(await store.spend.spent(key)).spent_usd for store in stores] == [0.8] * 4
        with pytest.raises(BudgetExceeded):
            await stores[1].spend.reserve(key, 0.3)
        await stores[3].limits.take(key, 1)
        with pytest.raises(RateLimited):
            await stores[0].limits.take(key, 1)


def test_held_store_is_nobody_elses_and_is_swept_once(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    torn = tmp_path / "files" / f"file-{'0' * 32}"
    torn.write_bytes(b"left by a crash")
    with held_store(tmp_path) as hold:
        assert not torn.exists()
        torn.write_bytes(b"arriving just now")
        (hold.folder / "note").write_text("for the others")
        open_store(StoreSettings(tmp_path, worker=0))
        assert torn.exists(), "a worker must not sweep what another one receives"
        with pytest.raises(ConfigError, match="another gateway"):
            open_store(StoreSettings(tmp_path))
        with pytest.raises(ConfigError, match="another gateway"), held_store(tmp_path):
            pass
    with held_store(tmp_path) as hold:
        assert list(hold.folder.iterdir()) == []
    assert not hold.folder.exists(), "what they told each other is nobody else's"


@pytest.fixture
def locked_out(tmp_path: Path, ledger: Ledger) -> Iterator[Ledger]:
    """A ledger that another process does not let go of."""
    with ExitStack() as stack:
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        stack.callback(other.close)
        other.execute("BEGIN IMMEDIATE")
        yield ledger


async def test_who_cannot_ask_the_ledger_goes_on_alone(
    locked_out: Ledger, key_with: KeyWith, caplog: pytest.LogCaptureFixture
) -> None:
    limits, key = LedgerLimits(locked_out, MemoryLimits(lambda: 0.0), lambda: 0.0), key_with(rpm=2)
    assert [(await limits.take(key, 1)).requests for _ in range(2)] == [1, 0]
    with pytest.raises(RateLimited):
        await limits.take(key, 1)
    with pytest.raises(LedgerAway):
        locked_out.run(lambda connection: None)
    assert [record.message.count("goes on alone") for record in caplog.records] == [1]


def test_ledger_is_for_its_owner_and_undoes_what_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    assert (tmp_path / "ledger.db").stat().st_mode & 0o077 == 0

    def refused(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO limits VALUES ('key', 1, 1)")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        ledger.run(refused)
    count = "SELECT count(*) FROM limits"
    assert ledger.run(lambda connection: connection.execute(count).fetchone()) == (0,)


@pytest.fixture
def conversations(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "responses.db", TABLES)
    yield opened
    opened.close()


def test_response_is_found_by_its_tenant_in_every_process(
    tmp_path: Path, conversations: Ledger
) -> None:
    other = Ledger(tmp_path / "responses.db", TABLES)
    assert LedgerResponses(conversations, 10, 1000).keep("acme", "r1", b"answer", b"turns")
    responses = LedgerResponses(other, 10, 1000)
    assert responses.find("acme", "r1") == (b"answer", b"turns")
    assert responses.find("evil", "r1") is None
    assert (responses.forget("evil", "r1"), responses.forget("acme", "r1")) == (False, True)
    assert LedgerResponses(conversations, 10, 1000).find("acme", "r1") is None
    other.close()


def test_responses_are_bounded_by_number_and_by_bytes(conversations: Ledger) -> None:
    responses = LedgerResponses(conversations, 3, 100)
    for number in range(5):
        assert responses.keep("acme", f"r{number}", b"x" * 10, b"")
    kept = [n for n in range(5) if responses.find("acme", f"r{n}") is not None]
    assert kept == [2, 3, 4]
    assert not responses.keep("other", "big", b"x" * 80, b""), "who holds the most gives way"
    assert responses.keep("other", "small", b"x" * 20, b"")
    assert responses.find("acme", "r4") is not None
    assert not responses.keep("acme", "huge", b"x" * 101, b"")
    assert responses.keep("acme", "r4", b"again", b"")
    assert responses.find("acme", "r4") == (b"again", b"")


TAKER = """
import asyncio, json, sys
from pathlib import Path
from coe.errors import BudgetExceeded, RateLimited
from coe.store import ApiKey, KeyLimits, StoreSettings, open_store

async def main() -> None:
    store = open_store(StoreSettings(Path(sys.argv[1]), worker=int(sys.argv[2])))
    key = ApiKey("key_acme", "acme", b"acme", 0.0, KeyLimits(rpm=300, budget_usd=1.0))
    took = spent = 0
    for _ in range(400):
        try:
            await store.limits.take(key, 1)
            took += 1
        except RateLimited:
            pass
        try:
            reservation = await store.spend.reserve(key, 0.01)
        except BudgetExceeded:
            continue
        await asyncio.sleep(0)
        await store.spend.settle(reservation, 0.005)
        spent += 1
    await store.close()
    print(json.dumps([took, spent]))

asyncio.run(main())
"""


@pytest.mark.slow
def test_processes_that_ask_at_once_get_no_more_than_one_would(tmp_path: Path) -> None:
    with held_store(tmp_path):
        commands = [(sys.executable, "-c", TAKER, str(tmp_path), str(n)) for n in range(4)]
        running = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in commands]
        told = [json.loads(one.communicate(timeout=120)[0]) for one in running]
    took, spent = (sum(column) for column in zip(*told, strict=True))
    assert 300 <= took <= 300 + 300 * 0.5, "a minute's worth, and what half a minute refills"
    assert 180 <= spent <= 199, "each sets twice aside what it costs"


def test_rates_are_kept_by_the_clock_of_the_machine(
    ledger: Ledger, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    async def asked() -> None:
        limits = LedgerLimits(ledger, MemoryLimits(), lambda: clock.now_s)
        await limits.take(key_with(rpm=1), 1)

    asyncio.run(asked())
    clock.now_s += 59.0
    with pytest.raises(RateLimited):
        asyncio.run(asked())
    clock.now_s += 1.0
    asyncio.run(asked())


async def test_worker_that_was_refused_remembers_why_without_the_ledger(
    workers: Open, key_with: KeyWith, tmp_path: Path
) -> None:
    one, other, key = workers(0), workers(1), key_with(budget_usd=1.0)
    await other.spend.settle(await other.spend.reserve(key, 0.9), 0.9)
    with pytest.raises(BudgetExceeded):
        await one.spend.reserve(key, 0.2)
    (file,) = tmp_path.rglob("ledger.db")
    with ExitStack() as stack:
        lock = sqlite3.connect(file, isolation_level=None)
        stack.callback(lock.close)
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(BudgetExceeded):
            await one.spend.reserve(key, 0.2)
