"""Keys: shown once, kept as hashes, known to every process and replica, and hard to guess wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError
from coe.store.database import Database
from coe.store.keys import KNOWN_S, UNKNOWN_S, ApiKey, KeyLimits, SqliteKeys, from_record, to_record
from coe.store.link import RedisLink
from coe.store.own_redis import OwnRedis
from coe.store.redis_keys import SharedKeys

OpenLink = Callable[..., Awaitable[RedisLink]]
FREE = KeyLimits()


def _keys(database: Database, clock: SimpleNamespace) -> SqliteKeys:
    return SqliteKeys(database, lambda: clock.now_s, lambda: clock.now_s)


@pytest.fixture
def keys(database: Database, clock: SimpleNamespace) -> SqliteKeys:
    return _keys(database, clock)


async def test_key_is_found_by_its_header(keys: SqliteKeys) -> None:
    limits = KeyLimits(60, 1000, 2.5, "day", ("math", "text"))
    token, made = await keys.create("acme", limits)
    assert len(token) == len("coe-") + 43
    for header in (f"Bearer {token}", f"bearer  {token}", f" BEARER {token} "):
        assert await keys.find(header.encode()) == made
    assert made.limits == limits
    assert made.tenant == "acme"


async def test_key_itself_is_nowhere_on_the_disk(keys: SqliteKeys, tmp_path: Path) -> None:
    token, made = await keys.create("acme", FREE)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert made.id.encode() in content
    assert token.encode() not in content
    assert token.removeprefix("coe-").encode() not in content
    assert token not in repr(made)


async def test_key_that_is_almost_right_is_not_found(keys: SqliteKeys) -> None:
    token, _ = await keys.create("acme", FREE)
    other = "A" if token[-1] != "A" else "B"
    for header in (
        None,
        b"",
        token.encode(),
        f"Basic {token}".encode(),
        f"Bearer {token}x".encode(),
        f"Bearer {token[:-1]}".encode(),
        f"Bearer {token[:-1]}{other}".encode(),
        f"Bearer {token.swapcase()}".encode(),
        f"Bearer {token} {token}".encode(),
    ):
        assert await keys.find(header) is None, header


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda raw: b"Bearer coe-" + raw))
def test_no_bytes_in_the_header_raise(keys: SqliteKeys, header: bytes) -> None:
    assert asyncio.run(keys.find(header)) is None


async def test_expired_key_is_refused(keys: SqliteKeys, clock: SimpleNamespace) -> None:
    token, made = await keys.create("acme", FREE, lifetime_s=30.0)
    header = f"Bearer {token}".encode()
    clock.now_s += 29.9
    assert await keys.find(header) == made
    clock.now_s += 0.1
    assert await keys.find(header) is None


async def test_revoked_key_is_refused_and_stays_listed(keys: SqliteKeys) -> None:
    token, made = await keys.create("acme", FREE)
    revoked = await keys.revoke("acme")
    assert await keys.find(f"Bearer {token}".encode()) is None
    assert [key.id for key in await keys.all()] == [made.id]
    assert await keys.revoke(made.id) == revoked


async def test_revoking_says_which_of_two_is_meant(keys: SqliteKeys) -> None:
    _, first = await keys.create("acme", FREE)
    _, second = await keys.create("acme", FREE)
    with pytest.raises(ConfigError, match=f"2 keys are called 'acme'; say which: .*{second.id}"):
        await keys.revoke("acme")
    await keys.revoke(first.id)
    assert (await keys.revoke("acme")).id == second.id
    with pytest.raises(ConfigError, match=r"0 keys are called 'acme'; `coe keys list`"):
        await keys.revoke("acme")


async def test_other_process_is_heard_of_soon(
    keys: SqliteKeys, database: Database, clock: SimpleNamespace
) -> None:
    command = Database(database.file, is_exclusive=False)
    elsewhere = _keys(command, clock)
    token, made = await elsewhere.create("acme", FREE)
    header = f"Bearer {token}".encode()
    clock.now_s += 2 * UNKNOWN_S
    assert await keys.find(header) == made
    await elsewhere.revoke(made.id)
    assert await keys.find(header) == made  # for at most a second
    clock.now_s += KNOWN_S
    assert await keys.find(header) is None
    command.close()


async def test_known_key_outlives_the_disk(
    keys: SqliteKeys, database: Database, clock: SimpleNamespace
) -> None:
    token, made = await keys.create("acme", FREE)
    await database.write(lambda connection: connection.execute("DROP TABLE meta"))
    clock.now_s += KNOWN_S
    assert await keys.find(f"Bearer {token}".encode()) == made


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"rpm": 0}, "rpm: must be 1 to"),
        ({"tpm": -5}, "tpm: must be 1 to"),
        ({"budget_usd": float("nan")}, "budget_usd: must be 0 to"),
        ({"budget_period": "week"}, "budget_period: must be one of day, month, total, not week"),
        ({"experts": ("math", "")}, "experts: has an empty name"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        KeyLimits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ä", "x" * 65])
async def test_name_that_cannot_be_told_is_refused(keys: SqliteKeys, name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        await keys.create(name, FREE)


def test_record_is_read_back(key_with: Callable[..., ApiKey]) -> None:
    key = key_with(rpm=5, experts=("math",))
    assert from_record(to_record(key)) == key


async def test_replicas_share_keys_and_revocations(
    database: Database, tmp_path: Path, clock: SimpleNamespace, open_link: OpenLink
) -> None:
    other_database = Database(tmp_path / "other.db")
    here, there = [
        SharedKeys(_keys(each, clock), await open_link(), monotonic=lambda: clock.now_s)
        for each in (database, other_database)
    ]
    token, made = await here.create("acme", KeyLimits(rpm=7))
    header = f"Bearer {token}".encode()
    assert await there.find(header) == made
    await there.revoke("acme")
    clock.now_s += KNOWN_S
    assert await here.find(header) is None
    assert _keys(database, clock).known[0].revoked_s is not None  # it is in the file, too
    other_database.close()


async def test_redis_that_forgot_keys_is_told_again(
    database: Database,
    tmp_path: Path,
    clock: SimpleNamespace,
    redis: OwnRedis,
    open_link: OpenLink,
) -> None:
    link = await open_link(retry_s=0.0)
    here = SharedKeys(_keys(database, clock), link, monotonic=lambda: clock.now_s)
    token, made = await here.create("acme", FREE)
    redis.kill()
    clock.now_s += KNOWN_S
    assert await here.find(f"Bearer {token}".encode()) == made
    _, alone = await here.create("alone", FREE)
    redis.start()
    await here.all()
    other_database = Database(tmp_path / "other.db")
    there = SharedKeys(_keys(other_database, clock), await open_link())
    assert {key.id for key in await there.all()} == {made.id, alone.id}
    other_database.close()


async def test_key_in_redis_that_makes_no_sense_is_passed_over(
    database: Database, clock: SimpleNamespace, open_link: OpenLink
) -> None:
    link = await open_link()
    here = SharedKeys(_keys(database, clock), link, monotonic=lambda: clock.now_s)
    _, made = await here.create("acme", FREE)
    for id_, record in (("key_a", "not JSON"), ("key_b", "{}"), ("key_c", "[1]")):
        await link.ask(lambda c, id_=id_, record=record: c.hset("coe:keys", id_, record))  # type: ignore[misc]
    await link.ask(lambda client: client.set("coe:keys:version", "other"))
    assert [key.id for key in await here.all()] == [made.id]
