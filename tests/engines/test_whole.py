"""A whole answer is the same whether it comes at once or piece by piece, whatever is around."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.counting import CountedEngine
from coe.engines.base import Engine, listed, whole_of
from coe.engines.breaking import BreakingEngine
from coe.engines.impatient import ImpatientEngine
from coe.engines.limited import LimitedEngine
from coe.engines.retrying import RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.wrapping import WrappingEngine
from coe.errors import CoeError, QueueFull, RequestError, UpstreamError, UpstreamTimeout
from coe.experts import Expert, ScriptedSpec
from coe.reliability import BreakerRules, RetryRules
from coe.telemetry import Tally
from coe.types import Delta, GenerationRequest, Message, Usage

ASK = GenerationRequest((Message("user", "hm?"),))
ANSWER = (Delta(raw=b"{}"), Delta(finish_reason="stop", usage=Usage(3, 4)))
Outcome = CoeError | Sequence[Delta]
OUTCOMES: tuple[Outcome, ...] = (
    ANSWER,
    (Delta(raw=b"{}"), Delta(finish_reason="length")),
    UpstreamError("e", "down", 503),
    UpstreamError("e", "no such", 422),
    UpstreamTimeout("e", 1.0),
    RequestError("not so"),
)


class Told(ScriptedEngine):
    """Comes to each of these outcomes in turn."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__(Expert("e", ScriptedSpec()))
        self.outcomes = list(outcomes)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, CoeError):
            raise outcome
        for delta in outcome:
            yield delta


class Hanging(ScriptedEngine):
    """Never comes to anything."""

    def __init__(self) -> None:
        super().__init__(Expert("e", ScriptedSpec()))
        self.n_left = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        try:
            await asyncio.Event().wait()
        finally:
            self.n_left += 1
        yield ANSWER[0]


class World:
    """One engine with everything around it, and all that it counts."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.tally = Tally()
        self.now = 0.0
        self.retrying = RetryingEngine(
            ImpatientEngine(Told(outcomes)), RetryRules(max_retries=2), sleep=self._sleep
        )
        rules = BreakerRules(in_a_row=2)
        self.breaking = BreakingEngine(self.retrying, rules, clock=lambda: self.now)
        self.engine = CountedEngine(LimitedEngine(self.breaking, 1, 0), self.tally)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    async def ask(self, how: Callable[[Engine], object]) -> object:
        self.now += 1.0
        try:
            return await how(self.engine)  # type: ignore[misc]
        except CoeError as error:
            return type(error).__name__, str(error)

    @property
    def counted(self) -> tuple[object, ...]:
        tally = self.tally
        breaker = (self.breaking.breaker_state, self.breaking.n_openings)
        return (
            (tally.requests, tally.answers, tally.abandoned, dict(tally.failures)),
            (tally.prompt_tokens, tally.completion_tokens, tally.uncounted_answers),
            (breaker, self.retrying.n_retries),
        )


async def piece_by_piece(engine: Engine) -> Sequence[Delta]:
    return list(await listed(engine.stream(ASK)))


async def at_once(engine: Engine) -> Sequence[Delta]:
    return list(await whole_of(engine, ASK))


@settings(max_examples=60)
@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
def test_whole_comes_to_what_the_stream_comes_to(outcomes: list[Outcome]) -> None:
    plenty = [*outcomes, *(ANSWER for _ in range(40))]
    one, other = World(plenty), World(plenty)

    async def ask_both() -> None:
        for _ in outcomes:
            assert await one.ask(piece_by_piece) == await other.ask(at_once)
            # Pauses are drawn at random, and have no say in what is counted.
            other.now = one.now
            assert one.counted == other.counted

    asyncio.run(ask_both())


async def test_whole_of_an_engine_that_streams_alone_is_all_of_its_stream() -> None:
    assert await at_once(Told([ANSWER])) == list(ANSWER)


class Shouting(WrappingEngine):
    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async for delta in self.inner.stream(request):
            yield Delta(raw=delta.raw.upper(), finish_reason=delta.finish_reason)


async def test_wrapper_that_only_streams_is_not_gone_around() -> None:
    said = await at_once(RetryingEngine(Shouting(Told([(Delta(raw=b"a"), ANSWER[1])]))))
    assert said[0] == Delta(raw=b"A")


async def test_whole_waits_no_longer_than_there_is_patience() -> None:
    hanging = Hanging()
    asked = GenerationRequest(ASK.messages, patience_s=0.001)
    with pytest.raises(UpstreamTimeout, match="first word"):
        await whole_of(ImpatientEngine(hanging), asked)
    assert hanging.n_left == 1


async def test_whole_holds_its_place_and_gives_it_back_when_it_is_cancelled() -> None:
    hanging = Hanging()
    limited = LimitedEngine(hanging, 1, 0)
    task = asyncio.create_task(at_once(limited))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await at_once(limited)
    task.cancel()
    await asyncio.wait([task])
    assert (limited.n_in_flight, hanging.n_left) == (0, 1)
