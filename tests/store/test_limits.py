"""Requests and tokens a minute: never too many, never a wait too long, the same in the ledger of
several processes and on Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import RateLimited
from coe.store.keys import ApiKey, KeyLimits
from coe.store.ledger import Ledger
from coe.store.ledger_limits import LedgerLimits
from coe.store.limits import UNLIMITED, Allowance, Limits, MemoryLimits
from coe.store.link import RedisLink
from coe.store.redis_limits import SharedLimits

OpenLink = Callable[..., Awaitable[RedisLink]]
KeyWith = Callable[..., ApiKey]


@pytest.fixture(params=["memory", "ledger", "redis"])
async def limits(
    request: pytest.FixtureRequest, clock: SimpleNamespace, open_link: OpenLink, ledger: Ledger
) -> Limits:
    if request.param == "memory":
        return MemoryLimits(lambda: clock.now_s)
    if request.param == "ledger":
        return LedgerLimits(ledger, _Never(), lambda: clock.now_s)
    return SharedLimits(await open_link(), _Never(), clock=lambda: clock.now_s)


class _Never:
    """Stands in for nobody: Redis and the ledger are there in these tests."""

    async def take(self, key: ApiKey, n_tokens: int) -> Allowance:
        raise AssertionError("it was away")

    async def correct(self, key: ApiKey, taken_tokens: int, used_tokens: int) -> None:
        raise AssertionError("it was away")


async def test_key_without_limits_is_never_refused(limits: Limits, key_with: KeyWith) -> None:
    for _ in range(100):
        assert await limits.take(key_with(), 10**9) == UNLIMITED


async def test_minute_of_requests_can_be_spent_at_once(
    limits: Limits, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(rpm=7)
    left = [(await limits.take(key, 1)).requests for _ in range(7)]
    assert left == [6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(RateLimited, match="'acme' may have 7 requests a minute") as refused:
        await limits.take(key, 1)
    assert refused.value.retry_after_s == pytest.approx(60 / 7, abs=1e-5)
    clock.now_s += refused.value.retry_after_s + 1e-6
    await limits.take(key, 1)
    with pytest.raises(RateLimited):
        await limits.take(key, 1)


async def test_refusal_takes_nothing(
    limits: Limits, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(rpm=2, tpm=100)
    await limits.take(key, 60)
    for _ in range(50):
        with pytest.raises(RateLimited, match="100 tokens a minute"):
            await limits.take(key, 60)
    allowance = await limits.take(key, 40)
    assert (allowance.requests, allowance.tokens) == (0, 0)
    assert allowance.tokens_reset_s == pytest.approx(60.0)
    clock.now_s += 61
    assert (await limits.take(key, 1)).requests == 1


async def test_request_for_more_than_a_minute_waits_for_a_whole_one(
    limits: Limits, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(tpm=60)
    await limits.take(key, 30)
    with pytest.raises(RateLimited) as refused:
        await limits.take(key, 90)
    assert refused.value.retry_after_s == pytest.approx(30.0)
    clock.now_s += 30.001
    await limits.take(key, 90)  # and pays for it in the next ninety seconds
    with pytest.raises(RateLimited) as refused:
        await limits.take(key, 1)
    assert refused.value.retry_after_s == pytest.approx(31.0)


async def test_what_was_not_used_is_given_back(limits: Limits, key_with: KeyWith) -> None:
    key = key_with(tpm=100)
    await limits.take(key, 100)
    await limits.correct(key, 100, 10)
    assert (await limits.take(key, 80)).tokens == 10
    await limits.correct(key, 80, 200)
    with pytest.raises(RateLimited) as refused:
        await limits.take(key, 1)
    assert refused.value.retry_after_s == pytest.approx(66.6, abs=0.01)


async def test_keys_do_not_share_their_minutes(limits: Limits, key_with: KeyWith) -> None:
    await limits.take(key_with("a", rpm=1), 1)
    await limits.take(key_with("b", rpm=1), 1)


class Bucket:
    """The model: a bucket that is refilled without rounding."""

    def __init__(self, per_minute: int) -> None:
        self.size = Fraction(per_minute)
        self.level = self.size
        self.at = Fraction(0)

    def level_at(self, now: Fraction) -> Fraction:
        return min(self.size, self.level + (now - self.at) * self.size / 60_000_000)

    def has(self, n: int, now: Fraction, slack: Fraction) -> bool:
        """Enough for n, or all that fits; surely so where the slack is negative."""
        return self.level_at(now) + slack >= min(Fraction(n), self.size)

    def take(self, n: int, now: Fraction) -> None:
        self.level, self.at = self.level_at(now) - n, now


STEPS = st.lists(
    st.tuples(
        st.integers(0, 30_000_000) | st.just(0),
        st.integers(0, 150),
        st.integers(0, 150),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20), st.integers(1, 100), STEPS)
def test_limits_follow_the_model(
    rpm: int, tpm: int, steps: list[tuple[int, int, int, bool]]
) -> None:
    """`steps`: microseconds to wait, tokens to take and tokens used; whether refusals wait."""
    clock = SimpleNamespace(us=0)
    limits = MemoryLimits(lambda: (clock.us + 0.5) / 1e6)
    key = ApiKey("key", "acme", b"", 0.0, KeyLimits(rpm, tpm))
    requests, tokens = Bucket(rpm), Bucket(tpm)
    slack = Fraction(len(steps) * 4 * max(rpm, tpm), 60_000_000)  # a few microseconds each

    async def run() -> None:
        for wait_us, n, used, waits in steps:
            clock.us += wait_us
            now = Fraction(clock.us)
            try:
                allowance = await limits.take(key, n)
            except RateLimited as refused:
                assert not (requests.has(1, now, -slack) and tokens.has(n, now, -slack))
                if not waits:
                    continue
                clock.us += round(refused.retry_after_s * 1e6)
                now = Fraction(clock.us)
                allowance = await limits.take(key, n)  # as it was told
            for bucket, taken in ((requests, 1), (tokens, n)):
                assert bucket.has(taken, now, slack)
                bucket.take(taken, now)
            assert allowance.requests == pytest.approx(max(0, float(requests.level)), abs=1.1)
            await limits.correct(key, n, used)
            tokens.take(used - n, now)

    asyncio.run(run())


async def test_replicas_hold_a_key_to_one_limit_together(
    open_link: OpenLink, key_with: KeyWith, clock: SimpleNamespace
) -> None:
    key = key_with(rpm=25)
    replicas = [
        SharedLimits(await open_link(), _Never(), clock=lambda: clock.now_s) for _ in range(3)
    ]
    asked = [replica.take(key, 1) for replica in replicas for _ in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 60 - 25
    assert not any(isinstance(answer, AssertionError) for answer in answers)


async def test_clock_of_redis_is_the_default(open_link: OpenLink, key_with: KeyWith) -> None:
    limits = SharedLimits(await open_link(), _Never())
    key = key_with(rpm=2, tpm=100)
    await limits.take(key, 10)
    allowance = await limits.take(key, 10)
    assert allowance.requests == 0
    assert 0 < allowance.requests_reset_s <= 60
    with pytest.raises(RateLimited) as refused:
        await limits.take(key, 10)
    assert 0 < refused.value.retry_after_s <= 30
    await limits.correct(key, 10, 0)


async def test_limits_in_redis_are_forgotten_when_they_are_whole(
    open_link: OpenLink, key_with: KeyWith
) -> None:
    link = await open_link()
    await SharedLimits(link, _Never()).take(key_with(rpm=60), 1)
    left_ms = await link.ask(lambda client: client.pttl("coe:limits:key_acme"))
    assert 1000 <= left_ms <= 2001


async def test_without_redis_each_process_goes_on_alone(
    key_with: KeyWith,
) -> None:
    link = RedisLink("unix:///nowhere/socket")
    limits = SharedLimits(link, MemoryLimits())
    key = key_with(rpm=2, tpm=1000)
    assert (await limits.take(key, 5)).requests == 1
    await limits.correct(key, 5, 50)
    assert (await limits.take(key, 5)).tokens == pytest.approx(945, abs=2)
    with pytest.raises(RateLimited):
        await limits.take(key, 5)
    await link.close()
