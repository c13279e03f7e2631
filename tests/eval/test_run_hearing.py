"""Experts and aggregators that do not answer twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from coe.aggregation import (
    AsksInTurn,
    Chain,
    LLMAggregator,
    MajorityVote,
    StopsEarly,
    WantsScores,
    WeightedVote,
    Writes,
)
from coe.engines.base import collect
from coe.engines.scripted import ScriptedEngine
from coe.errors import ShuttingDown, UpstreamError
from coe.eval.runs.hearing import HeardEngine, Meter, Recalled, heard_aggregator
from coe.eval.runs.journal import Journal, Spot
from coe.experts import Expert, ScriptedSpec
from coe.types import Completion, Delta, GenerationRequest, Message

ASKED = GenerationRequest((Message("user", "say it"),), id="q1")
TWO = [("a", Completion("yes", "stop", None)), ("b", Completion("no", "stop", None))]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.jsonl") as opened:
        yield opened


def _engine(spec: ScriptedSpec) -> ScriptedEngine:
    return ScriptedEngine(Expert("a", spec))


async def test_heard_engine_asks_once_for_each_id(journal: Journal) -> None:
    inner = _engine(ScriptedSpec(default="it"))
    heard = HeardEngine(inner, journal)
    first = await collect("a", heard.stream(ASKED))
    second = await collect("a", HeardEngine(inner, journal).stream(ASKED))
    assert (first.text, first.usage) == (second.text, second.usage)
    assert len(inner.requests) == 1
    other = GenerationRequest(ASKED.messages, id="q2")
    await collect("a", heard.stream(other))
    assert len(inner.requests) == 2


async def test_heard_engine_fails_again_in_the_same_words(journal: Journal) -> None:
    inner = _engine(ScriptedSpec(default="one two three", fail_after_tokens=1))
    with pytest.raises(UpstreamError) as first:
        await collect("a", HeardEngine(inner, journal).stream(ASKED))
    with pytest.raises(Recalled) as second:
        await collect("a", HeardEngine(inner, journal).stream(ASKED))
    assert str(second.value) == str(first.value)
    assert len(inner.requests) == 1


class _Closing(ScriptedEngine):
    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        for text in request.messages[0].content:
            if text:
                raise ShuttingDown("shutting down")
            yield Delta()


async def test_heard_engine_does_not_keep_that_everything_shuts_down(journal: Journal) -> None:
    closing = HeardEngine(_Closing(Expert("a", ScriptedSpec())), journal)
    with pytest.raises(ShuttingDown):
        await collect("a", closing.stream(ASKED))
    assert not journal.spots


async def test_heard_engine_keeps_nothing_of_an_answer_that_is_broken_off(
    journal: Journal,
) -> None:
    deltas = HeardEngine(_engine(ScriptedSpec(default="one two three")), journal).stream(ASKED)
    await anext(deltas)
    await deltas.aclose()  # type: ignore[attr-defined]
    assert not journal.spots


def test_heard_votes_wait_for_everybody(journal: Journal) -> None:
    assert isinstance(MajorityVote(), StopsEarly)
    for inner in (MajorityVote(), WeightedVote({})):
        outer = heard_aggregator(inner, journal, {})
        assert not isinstance(outer, StopsEarly)
        assert isinstance(outer, WantsScores) == isinstance(inner, WantsScores)
    assert isinstance(heard_aggregator(Chain(), journal, {}), AsksInTurn)


async def test_heard_weighted_vote_still_weighs(journal: Journal) -> None:
    outer = heard_aggregator(WeightedVote({}), journal, {})
    assert isinstance(outer, WantsScores)
    assert await outer.with_scores({"a": 0.2, "b": 0.9}).aggregate(ASKED, TWO) == "no"
    assert await outer.with_scores({"a": 0.9, "b": 0.2}).aggregate(ASKED, TWO) == "yes"


async def test_heard_writer_writes_once_and_apart_from_its_own_answer(journal: Journal) -> None:
    inner = _engine(ScriptedSpec(answers={"candidate": "both"}, default="mine"))
    own = await collect("a", HeardEngine(inner, journal).stream(ASKED))
    outer = heard_aggregator(LLMAggregator(inner), journal, {})
    assert isinstance(outer, Writes)
    for _ in range(2):
        written = await collect("a", outer.write(ASKED, TWO))
        assert (own.text, written.text) == ("mine", "both")
    assert len(inner.requests) == 2
    assert set(journal.spots) == {Spot("answer", "q1", "a"), Spot("write", "q1", "a")}


class _Clock:
    def __init__(self, times: Sequence[float]) -> None:
        self._times = iter(times)

    def __call__(self) -> float:
        return next(self._times)


def test_meter_shares_energy_equally_among_what_is_written_at_a_time() -> None:
    # From 0 to 10 s one alone, to 20 s two, to 30 s the other one alone, at 100 W.
    meter = Meter(100.0, _Clock([0, 10, 20, 20, 30, 30]))
    first = meter.writing()
    taken_first = first.__enter__()
    second = meter.writing()
    taken_second = second.__enter__()
    assert taken_first() == pytest.approx(1000 + 500)
    first.__exit__(None, None, None)
    assert taken_second() == pytest.approx(500 + 1000)
    second.__exit__(None, None, None)


def test_meter_without_watts_knows_nothing() -> None:
    with Meter(0.0, _Clock([0, 1, 2])).writing() as taken:
        assert taken() is None
