"""The circuit breaker: model-based on its rules, and around an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coe.engines.base import closing_stream, collect
from coe.engines.breaker import Breaker, BreakerState, Call
from coe.engines.breaking import BreakerOpen, BreakingEngine
from coe.engines.scripted import ScriptedEngine
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
from coe.reliability import BreakerRules
from coe.types import Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]
RULES = BreakerRules(failure_share=0.5, least_calls=4, window_s=10.0, open_s=2.0, longest_s=8.0)


class Troubled(ScriptedEngine):
    """Answers, or fails with what it is given."""

    def __init__(self) -> None:
        super().__init__(Expert("e", ScriptedSpec(default="a b c")))
        self.error: CoeError | None = None
        self.breaks_off = False

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if self.error is not None:
            self.requests.append(request)
            raise self.error
        async with closing_stream(super().stream(request)) as deltas:
            async for delta in deltas:
                if delta.finish_reason and self.breaks_off:
                    return
                yield delta


class Setting:
    """A breaker around a troubled engine, with a clock to turn."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.inner = Troubled()
        self.engine = BreakingEngine(self.inner, RULES, lambda: self.now_s)

    async def fail(self, request: GenerationRequest, times: int) -> None:
        for _ in range(times):
            with pytest.raises(CoeError):
                await collect("e", self.engine.stream(request))


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_breaking_opens_by_the_share_of_failures_and_then_asks_no_more(
    setting: Setting, ask: Ask
) -> None:
    await collect("e", setting.engine.stream(ask()))
    setting.inner.error = UpstreamError("e", "down", 503)
    await setting.fail(ask(), 3)
    assert len(setting.inner.requests) == 4
    setting.now_s = 0.5
    with pytest.raises(BreakerOpen, match=r"failed 3 of its last 4 .* again in 1\.5 s") as caught:
        await collect("e", setting.engine.stream(ask()))
    assert caught.value.retry_after_s == 1.5
    assert len(setting.inner.requests) == 4
    assert setting.engine.breaker_state is BreakerState.OPEN


async def test_breaking_forgets_failures_older_than_its_window(setting: Setting, ask: Ask) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    for _ in range(6):
        await setting.fail(ask(), 1)
        setting.now_s += 4.0  # never four within ten seconds
    assert setting.engine.breaker_state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (UpstreamError("e", "no status"), True),
        (UpstreamError("e", "overloaded", 500), True),
        (UpstreamError("e", "slow down", 429), True),
        (UpstreamError("e", "no key", 401), True),
        (UpstreamError("e", "too large", 413), False),
        (UpstreamTimeout("e", 1), True),
        (StartupError("e", "no memory"), True),
        (RequestError("malformed"), False),
        (QueueFull("busy", 1), False),
    ],
)
async def test_breaking_counts_what_tells_of_the_expert(
    setting: Setting, ask: Ask, error: CoeError, opens: bool
) -> None:
    setting.inner.error = error
    await setting.fail(ask(), 4)
    assert (setting.engine.breaker_state is BreakerState.OPEN) == opens


async def test_breaking_takes_an_answer_without_its_end_for_a_failure(
    setting: Setting, ask: Ask
) -> None:
    setting.inner.breaks_off = True
    await setting.fail(ask(), 4)
    assert setting.engine.breaker_state is BreakerState.OPEN


async def test_breaking_lets_one_trial_through_whose_first_delta_closes(
    setting: Setting, ask: Ask
) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 4)
    setting.inner.error = None
    setting.now_s = 2.0
    trial = cast(AsyncGenerator[Delta, None], setting.engine.stream(ask()))
    task = asyncio.ensure_future(anext(trial))
    await asyncio.sleep(0)
    with pytest.raises(BreakerOpen, match="is being tried with one request") as caught:
        await collect("e", setting.engine.stream(ask()))
    assert caught.value.retry_after_s == 2.0
    assert (await task).text == "a"
    assert setting.engine.breaker_state is BreakerState.CLOSED
    await collect("e", setting.engine.stream(ask()))
    await trial.aclose()


async def test_breaking_waits_twice_as_long_after_each_failed_trial(
    setting: Setting, ask: Ask
) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 4)
    waits = []
    for _ in range(4):
        with pytest.raises(BreakerOpen) as caught:
            await collect("e", setting.engine.stream(ask()))
        waits.append(caught.value.retry_after_s)
        setting.now_s += caught.value.retry_after_s
        await setting.fail(ask(), 1)
    assert waits == [2.0, 4.0, 8.0, 8.0]
    assert setting.engine.n_openings == 5


async def test_breaking_starts_afresh_once_a_trial_has_answered(setting: Setting, ask: Ask) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 4)
    setting.now_s = 2.0
    await setting.fail(ask(), 1)
    setting.now_s = 6.0
    setting.inner.error = None
    await collect("e", setting.engine.stream(ask()))
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 2)
    assert setting.engine.breaker_state is BreakerState.CLOSED  # three calls are too few again
    await setting.fail(ask(), 1)
    with pytest.raises(BreakerOpen) as caught:
        await collect("e", setting.engine.stream(ask()))
    assert caught.value.retry_after_s == 2.0


async def test_breaking_gives_the_trial_to_the_next_if_the_first_is_cancelled(
    setting: Setting, ask: Ask
) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 4)
    setting.inner.error = None
    setting.now_s = 2.0
    task = asyncio.create_task(collect("e", setting.engine.stream(ask())))
    await asyncio.sleep(0)
    assert len(setting.inner.requests) == 5
    task.cancel()
    await asyncio.wait([task])
    assert setting.engine.breaker_state is BreakerState.HALF_OPEN
    assert (await collect("e", setting.engine.stream(ask()))).text == "a b c"


async def test_breaking_closes_the_inner_stream(setting: Setting, ask: Ask) -> None:
    stream = cast(AsyncGenerator[Delta, None], setting.engine.stream(ask()))
    await anext(stream)
    await stream.aclose()
    assert setting.inner.cancelled == 1


async def test_breaking_stop_forgets(setting: Setting, ask: Ask) -> None:
    setting.inner.error = UpstreamTimeout("e", 1)
    await setting.fail(ask(), 4)
    await setting.engine.stop(1)
    setting.inner.error = None
    assert (await collect("e", setting.engine.stream(ask()))).text == "a b c"


def test_breaker_learns_nothing_from_a_trial_that_a_stop_overtook() -> None:
    breaker = Breaker(RULES)
    calls = [call for _ in range(4) if (call := breaker.on_arrival(0.0))]
    for call in calls:
        breaker.on_end(0.0, call, False)
    trial = breaker.on_arrival(2.0)
    assert trial is not None
    breaker.forget()
    calls = [call for _ in range(4) if (call := breaker.on_arrival(3.0))]
    for call in calls:
        breaker.on_end(3.0, call, False)
    assert breaker.on_life(trial) is trial
    breaker.on_end(3.0, trial, True)
    assert breaker.state(3.0) is BreakerState.OPEN


@pytest.mark.parametrize(
    "wrong", [{"failure_share": 0.0}, {"least_calls": 0}, {"open_s": 9.0, "longest_s": 8.0}]
)
def test_breaker_rules_refuse_what_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        BreakerRules(**wrong)  # type: ignore[arg-type]


class BreakerMachine(RuleBasedStateMachine):
    """Calls that come, live, end or leave in any order, against the rules written down again."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(RULES)
        self.now_s = 0.0
        self.open_calls: list[Call] = []
        self.opened_at_s: float | None = None
        self.open_for_s = RULES.open_s
        self.trial: Call | None = None

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def arrive(self) -> None:
        call = self.breaker.on_arrival(self.now_s)
        if self.opened_at_s is None:
            assert call is not None
            assert not call.is_trial
        elif self.now_s < self.opened_at_s + self.open_for_s or self.trial is not None:
            assert call is None
            assert self.breaker.wait_s(self.now_s) > 0
        else:
            assert call is not None
            assert call.is_trial
            self.trial = call
        if call is not None:
            self.open_calls.append(call)

    @rule()
    def forget(self) -> None:
        self.breaker.forget()
        self._closed()

    @precondition(lambda self: self.open_calls)
    @rule(data=st.data())
    def live(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.open_calls) - 1))
        call = self.open_calls[at]
        if call is self.trial:
            self._closed()
        self.open_calls[at] = self.breaker.on_life(call)

    @precondition(lambda self: self.open_calls)
    @rule(data=st.data(), ok=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, ok: bool | None) -> None:
        call = self.open_calls.pop(data.draw(st.integers(0, len(self.open_calls) - 1)))
        is_trial, n_openings = call is self.trial, self.breaker.n_openings
        was_closed = self.opened_at_s is None
        self.breaker.on_end(self.now_s, call, ok)
        has_opened = self.breaker.n_openings > n_openings
        if is_trial and ok:
            self._closed()
        elif is_trial and ok is None:
            self.trial = None
        elif is_trial:
            assert has_opened
            self._opened(min(RULES.longest_s, 2 * self.open_for_s))
            return
        if has_opened:
            assert was_closed
            assert self.breaker.n_calls >= RULES.least_calls
            assert self.breaker.n_failed >= RULES.failure_share * self.breaker.n_calls
            self._opened(self.open_for_s)

    def _closed(self) -> None:
        self.opened_at_s, self.trial, self.open_for_s = None, None, RULES.open_s

    def _opened(self, open_for_s: float) -> None:
        self.opened_at_s, self.trial, self.open_for_s = self.now_s, None, open_for_s

    @invariant()
    def state_is_the_models(self) -> None:
        state = self.breaker.state(self.now_s)
        if self.opened_at_s is None:
            assert state is BreakerState.CLOSED
        elif self.now_s < self.opened_at_s + self.open_for_s:
            assert state is BreakerState.OPEN
        else:
            assert state is BreakerState.HALF_OPEN


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_breaker_keeps_to_its_rules = BreakerMachine.TestCase


def _in_a_row() -> Breaker:
    return Breaker(BreakerRules(in_a_row=3, least_calls=1000, window_s=10.0))


def _end(breaker: Breaker, now: float, ok: bool) -> None:
    call = breaker.on_arrival(now)
    assert call is not None
    breaker.on_end(now, call, ok)


def test_breaker_opens_after_failures_in_a_row_however_good_it_was() -> None:
    breaker = _in_a_row()
    for i in range(500):
        _end(breaker, i / 100, True)
    for now in (6.0, 6.1):
        _end(breaker, now, False)
    _end(breaker, 6.2, True)
    for now in (6.3, 6.4):
        _end(breaker, now, False)
    assert breaker.state(6.4) is BreakerState.CLOSED
    _end(breaker, 6.5, False)
    assert breaker.state(6.5) is BreakerState.OPEN


def test_breaker_takes_what_fails_at_once_for_one_failure_in_a_row() -> None:
    breaker = _in_a_row()
    for _ in range(50):
        _end(breaker, 1.0, False)
    assert breaker.state(1.0) is BreakerState.CLOSED


def test_breaker_counts_in_a_row_only_what_failed_within_its_window() -> None:
    breaker = _in_a_row()
    for now in (0.0, 11.0, 22.0, 33.0):
        _end(breaker, now, False)
    assert breaker.state(33.0) is BreakerState.CLOSED
