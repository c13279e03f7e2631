"""Redis that hangs, dies or answers late: short waits, no mix-ups, and back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from coe.errors import ConfigError
from coe.store.link import RedisAway, RedisLink
from coe.store.own_redis import OwnRedis

OpenLink = Callable[..., Awaitable[RedisLink]]


async def test_redis_that_hangs_is_waited_for_once(
    redis: OwnRedis, open_link: OpenLink, clock: SimpleNamespace
) -> None:
    patient = await open_link()
    link = await open_link(0.05, monotonic=lambda: clock.now_s)
    assert await link.is_up()
    redis.pause()
    began = time.monotonic()
    assert not await link.is_up()
    waited_s = time.monotonic() - began
    assert 0.04 < waited_s < 2.0
    assert link.trouble == "no answer within 0.05 s"
    asked = 0

    async def question(client: object) -> None:
        nonlocal asked
        asked += 1

    for _ in range(1000):
        with pytest.raises(RedisAway):
            await link.ask(question)
    assert asked == 0
    redis.resume()
    assert await patient.is_up()
    assert not await link.is_up()  # it is not time to try again
    clock.now_s += 1.0
    async with asyncio.timeout(10.0):
        while not await link.is_up():  # the machine may be too busy for fifty milliseconds
            clock.now_s += 1.0
    assert link.trouble is None


async def test_one_caller_tries_again_for_all(clock: SimpleNamespace) -> None:
    link = RedisLink("unix:///nowhere/socket", monotonic=lambda: clock.now_s)
    assert not await link.is_up()
    clock.now_s += 1.0
    asked = []

    async def question(client: object) -> None:
        asked.append(client)
        await asyncio.sleep(0)
        raise OSError("still away")

    answers = await asyncio.gather(*(link.ask(question) for _ in range(50)), return_exceptions=True)
    assert len(asked) == 1
    assert all(isinstance(answer, RedisAway) for answer in answers)
    await link.close()


async def test_answers_are_never_mixed_up(redis: OwnRedis, open_link: OpenLink) -> None:
    """Callers that give up while Redis hangs leave no answer behind for the next."""
    link = await open_link(10.0)
    for n in range(100):
        await link.ask(lambda client, n=n: client.set(f"key {n}", f"value {n}"))  # type: ignore[misc]

    async def get(n: int) -> bytes | str | None:
        return await link.ask(lambda client: client.get(f"key {n}"))

    for _ in range(5):
        redis.pause()
        hanging = [asyncio.ensure_future(get(n)) for n in range(40)]
        await asyncio.sleep(0.01)
        for task in hanging[::2]:
            task.cancel()
        redis.resume()
        await asyncio.gather(*hanging, return_exceptions=True)
        answers = await asyncio.gather(*(get(n) for n in range(100)))
        assert answers == [f"value {n}".encode() for n in range(100)]


async def test_redis_that_was_killed_is_found_again(redis: OwnRedis, open_link: OpenLink) -> None:
    link = await open_link(retry_s=0.0)
    assert await link.is_up()
    redis.kill()
    assert not await link.is_up()
    redis.start()
    assert await link.is_up()


async def test_script_that_redis_forgot_is_sent_again(open_link: OpenLink) -> None:
    link = await open_link()
    assert await link.run("return tonumber(ARGV[1]) + 1", [], [1]) == 2
    await link.ask(lambda client: client.script_flush())
    assert await link.run("return tonumber(ARGV[1]) + 1", [], [2]) == 3


async def test_error_of_redis_is_no_error_of_a_request(open_link: OpenLink) -> None:
    link = await open_link()
    with pytest.raises(RedisAway, match="unknown command"):
        await link.ask(lambda client: client.execute_command("NO SUCH THING"))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://user:secret@host"])
def test_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="redis_url: is no address of a Redis") as refused:
        RedisLink(url)
    assert "secret" not in str(refused.value)
