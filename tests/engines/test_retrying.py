"""Asking again: what for, how often, how soon, and never beyond the budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.engines.base import closing_stream, collect
from coe.engines.breaker import BreakerState
from coe.engines.breaking import BreakerOpen, BreakingEngine
from coe.engines.limited import LimitedEngine
from coe.engines.retrying import RetryBudget, RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.upstream_busy import UpstreamBusy
from coe.errors import (
    CoeError,
    ConfigError,
    QueueFull,
    RequestError,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, ScriptedSpec
from coe.reliability import BreakerRules, RetryRules
from coe.types import Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]
DOWN = UpstreamError("e", "down", 503)


class Flaky(ScriptedEngine):
    """Fails with each of `errors` in turn, then answers."""

    def __init__(self, *errors: CoeError, answer: str = "a b c") -> None:
        super().__init__(Expert("e", ScriptedSpec(default=answer)))
        self.errors = list(errors)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if self.errors:
            self.requests.append(request)
            raise self.errors.pop(0)
        async with closing_stream(super().stream(request)) as deltas:
            async for delta in deltas:
                yield delta


class Pauses:
    def __init__(self) -> None:
        self.taken_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken_s.append(seconds)


def retrying(inner: ScriptedEngine, pauses: Pauses, **rules: float) -> RetryingEngine:
    return RetryingEngine(
        inner,
        RetryRules(**rules),  # type: ignore[arg-type]
        sleep=pauses,
        random_=random.Random(1),
    )


@pytest.mark.parametrize(
    "error",
    [
        UpstreamTimeout("e", 1),
        UpstreamError("e", "no status"),
        UpstreamError("e", "slow down", 429),
        UpstreamError("e", "broken", 502),
    ],
)
async def test_retrying_asks_again_after_what_may_pass(ask: Ask, error: CoeError) -> None:
    inner, pauses = Flaky(error, error), Pauses()
    engine = retrying(inner, pauses)
    assert (await collect("e", engine.stream(ask()))).text == "a b c"
    assert len(inner.requests) == 3
    assert engine.n_retries == len(pauses.taken_s) == 2


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("e", "no key", 401),
        UpstreamError("e", "too large", 413),
        RequestError("malformed"),
        StartupError("e", "no memory"),
        QueueFull("busy", 1.0),
        BreakerOpen("e", "failed", 1.0),
    ],
)
async def test_retrying_hands_on_at_once_what_will_not_pass(ask: Ask, error: CoeError) -> None:
    inner, pauses = Flaky(error), Pauses()
    with pytest.raises(type(error)):
        await collect("e", retrying(inner, pauses).stream(ask()))
    assert len(inner.requests) == 1
    assert pauses.taken_s == []


async def test_retrying_asks_never_again_after_the_first_delta(ask: Ask) -> None:
    inner = ScriptedEngine(Expert("e", ScriptedSpec(default="a b c", fail_after_tokens=2)))
    with pytest.raises(UpstreamError, match="after 2 tokens"):
        await collect("e", retrying(inner, Pauses()).stream(ask()))
    assert len(inner.requests) == 1


async def test_retrying_gives_up_with_the_last_failure(ask: Ask) -> None:
    inner = Flaky(*(UpstreamError("e", f"failure {n}", 500) for n in range(5)))
    with pytest.raises(UpstreamError, match="failure 3"):
        await collect("e", retrying(inner, Pauses(), max_retries=3).stream(ask()))
    assert len(inner.requests) == 4


async def test_retrying_draws_pauses_below_a_bound_that_doubles_up_to_the_longest(
    ask: Ask,
) -> None:
    rules = RetryRules(max_retries=5, first_pause_s=1.0, longest_pause_s=6.0, budget_reserve=1e6)
    drawn: list[list[float]] = [[] for _ in range(5)]
    random_ = random.Random(0)
    for _ in range(200):
        pauses = Pauses()
        engine = RetryingEngine(Flaky(*[DOWN] * 5), rules, sleep=pauses, random_=random_)
        await collect("e", engine.stream(ask()))
        for nth, pause_s in enumerate(pauses.taken_s):
            drawn[nth].append(pause_s)
    for nth, bound_s in enumerate([1.0, 2.0, 4.0, 6.0, 6.0]):
        assert max(drawn[nth]) <= bound_s
        assert max(drawn[nth]) > 0.9 * bound_s
        assert min(drawn[nth]) < 0.1 * bound_s


async def test_retrying_leaves_an_expert_alone_for_as_long_as_it_asks(ask: Ask) -> None:
    pauses = Pauses()
    busy = UpstreamBusy("e", "busy", 429, 3.0)
    await collect("e", retrying(Flaky(busy), pauses, first_pause_s=0.5).stream(ask()))
    assert 3.0 <= pauses.taken_s[0] <= 3.5


async def test_retrying_does_not_wait_longer_than_its_longest_pause(ask: Ask) -> None:
    pauses = Pauses()
    busy = UpstreamBusy("e", "busy", 429, 60.0)
    with pytest.raises(UpstreamBusy, match="left alone for 60 s"):
        await collect("e", retrying(Flaky(busy), pauses, longest_pause_s=5.0).stream(ask()))
    assert pauses.taken_s == []


async def test_retrying_does_not_wait_past_the_deadline(ask: Ask) -> None:
    pauses = Pauses()
    now = asyncio.get_running_loop().time()
    busy = UpstreamBusy("e", "busy", 503, 5.0)
    with pytest.raises(UpstreamBusy):
        await collect("e", retrying(Flaky(busy), pauses).stream(replace(ask(), deadline_s=now + 4)))
    assert pauses.taken_s == []
    engine = retrying(Flaky(busy), pauses)
    await collect("e", engine.stream(replace(ask(), deadline_s=now + 60)))
    assert len(pauses.taken_s) == 1


async def test_retrying_does_not_start_a_stopped_expert_anew(ask: Ask) -> None:
    inner = Flaky(DOWN)

    async def stopping(_: float) -> None:
        await engine.stop(1)

    engine = RetryingEngine(inner, sleep=stopping)
    with pytest.raises(UpstreamError, match="down"):
        await collect("e", engine.stream(ask()))
    assert len(inner.requests) == 1


async def test_retrying_takes_what_a_stop_cuts_off_for_final(ask: Ask) -> None:
    pauses = Pauses()

    class CutOff(Flaky):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
            await engine.stop(1)
            async for delta in super().stream(request):
                yield delta

    engine = retrying(CutOff(DOWN), pauses)
    with pytest.raises(UpstreamError, match="down"):
        await collect("e", engine.stream(ask()))
    assert pauses.taken_s == []


async def test_retrying_closes_the_inner_stream(ask: Ask) -> None:
    inner = Flaky(DOWN)
    stream = cast(AsyncGenerator[Delta, None], retrying(inner, Pauses()).stream(ask()))
    await anext(stream)
    await stream.aclose()
    assert inner.cancelled == 1


async def test_retrying_makes_an_outage_worse_by_its_share_at_most(ask: Ask) -> None:
    inner = Flaky(*[DOWN] * 1000)
    engine = retrying(inner, Pauses(), budget_share=0.1, budget_reserve=5.0, max_retries=3)
    for _ in range(100):
        with pytest.raises(UpstreamError):
            await collect("e", engine.stream(ask()))
    assert engine.n_retries == 15 - 1  # the reserve was full when the first request came
    assert len(inner.requests) == 100 + engine.n_retries


@given(
    steps=st.lists(st.booleans(), max_size=300),
    share=st.floats(0, 1),
    reserve=st.floats(0, 20),
)
def test_retry_budget_never_exceeds_its_share_and_reserve(
    steps: list[bool], share: float, reserve: float
) -> None:
    budget = RetryBudget(share, reserve)
    n_requests = n_taken = 0
    for is_request in steps:
        if is_request:
            budget.on_request()
            n_requests += 1
        else:
            n_taken += budget.take()
        assert n_taken <= reserve + share * n_requests + 1e-6


@pytest.mark.parametrize("wrong", [{"max_retries": -1}, {"first_pause_s": 20.0}])
def test_retry_rules_refuse_what_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RetryRules(**wrong)  # type: ignore[arg-type]


async def test_wrappers_compose(ask: Ask) -> None:
    """limit(break(retry(inner))): retries count as one request, a failing expert is left alone."""
    now_s = [0.0]
    inner, pauses = Flaky(DOWN), Pauses()
    rules = BreakerRules(least_calls=2, open_s=5.0)
    breaking = BreakingEngine(retrying(inner, pauses, max_retries=1), rules, lambda: now_s[0])
    engine = LimitedEngine(breaking, 1, 4, lambda: now_s[0])

    answers = await asyncio.gather(*(collect("e", engine.stream(ask(id=f"{n}"))) for n in range(4)))
    assert [answer.text for answer in answers] == ["a b c"] * 4
    assert len(inner.requests) == 5
    assert breaking.breaker_state is BreakerState.CLOSED

    inner.errors = [DOWN] * 100
    outcomes = await asyncio.gather(
        *(collect("e", engine.stream(ask())) for _ in range(5)), return_exceptions=True
    )
    # Four answers before make four failures one half; each of them was asked twice.
    assert [type(outcome) for outcome in outcomes] == [*[UpstreamError] * 4, BreakerOpen]
    assert len(inner.requests) == 5 + 2 * 4
    assert (engine.n_in_flight, engine.n_waiting) == (0, 0)

    inner.errors = []
    now_s[0] = 5.0
    stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
    assert (await anext(stream)).text == "a"
    await stream.aclose()
    assert inner.cancelled == 1
    assert breaking.breaker_state is BreakerState.CLOSED
    assert engine.n_in_flight == 0
    await engine.stop(1)
    assert engine.expert_id == "e"


async def test_retrying_does_not_wait_anew_for_who_was_silent_long(ask: Ask) -> None:
    inner, pauses = Flaky(UpstreamTimeout("e", 6.0), UpstreamTimeout("e", 6.0)), Pauses()
    with pytest.raises(UpstreamTimeout):
        await collect("e", retrying(inner, pauses, longest_pause_s=5.0).stream(ask()))
    assert len(inner.requests) == 1
    again = retrying(inner, pauses, longest_pause_s=6.0)
    assert (await collect("e", again.stream(ask()))).text == "a b c"
