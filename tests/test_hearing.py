"""Several experts' answers as one: word by word where somebody writes it, and what each used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coe.aggregation import (
    Aggregator,
    Chain,
    LLMAggregator,
    MajorityVote,
    WeightedVote,
    stated_answer,
)
from coe.assembly import load_composition
from coe.composition import Answering, Composition
from coe.engines.base import Engine, collect
from coe.engines.scripted import ScriptedEngine
from coe.errors import CoeError, UpstreamError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.progress import Progress
from coe.routers.policies import FallbackOnUnreadable, TopK
from coe.routing import AdaptivePolicy, FloatArray, Policy, Router
from coe.types import Delta, GenerationRequest, Message, Query, Usage

REQUEST = GenerationRequest((Message("user", "hello there"),), id="q")
DEAD = ScriptedSpec(default="never", fail_after_tokens=0)
HOSTED = """
experts:
  - {id: a, engine: {kind: scripted, default: hi}, footprint: {gib: 1}}
router: {scorer: random}
"""


class Ranked:
    """The first expert scores highest."""

    name = "ranked"

    def __init__(self, expert_ids: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(-np.arange(len(self.expert_ids), dtype=float), (len(queries), 1))


class Remembering(Progress):
    """Keeps what it is told, a line each."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def waiting(self, expert_id: str, n_before: int) -> None:
        self.told.append(f"waiting {expert_id} {n_before}")

    def asked(self, expert_ids: Sequence[str]) -> None:
        self.told.append(f"asked {' '.join(expert_ids)}")

    def answered(self, expert_id: str, n_answered: int, n_asked: int | None = None) -> None:
        self.told.append(f"answered {expert_id} {n_answered}/{n_asked}")

    def failed(self, expert_id: str) -> None:
        self.told.append(f"failed {expert_id}")

    def writing(self, expert_id: str) -> None:
        self.told.append(f"writing {expert_id}")


class Halting(ScriptedEngine):
    """Says one word and then waits to be let on."""

    def __init__(self, expert_id: str, text: str) -> None:
        super().__init__(Expert(expert_id, ScriptedSpec(default=text)))
        self.go_on = asyncio.Event()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        try:
            async for delta in super().stream(request):
                yield delta
                await self.go_on.wait()
        finally:
            self.go_on.set()


def _says(text: str) -> ScriptedSpec:
    return ScriptedSpec(default=text)


def _engines(specs: dict[str, ScriptedSpec]) -> dict[str, Engine]:
    return {id_: ScriptedEngine(Expert(id_, spec)) for id_, spec in specs.items()}


def _composed(
    engines: dict[str, Engine],
    policy: Policy | AdaptivePolicy,
    aggregator: Aggregator | None = None,
) -> Composition:
    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in engines))
    return Composition(Router(Ranked(pool.ids), policy, pool), engines, aggregator)


def _written(writer: Engine, **specs: ScriptedSpec) -> Composition:
    engines = {**_engines(specs), writer.expert_id: writer}
    return _composed(engines, TopK(len(specs)), LLMAggregator(writer))


async def _words(answer: Answering) -> tuple[str, Usage | None]:
    completion = await collect("?", answer.deltas)
    return completion.text, completion.usage


async def test_written_answer_is_heard_before_its_end() -> None:
    writer = Halting("w", "both together")
    composition = _written(writer, a=_says("one"), b=_says("two"))
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert (await anext(answer.deltas)).text == "both"
        assert not writer.go_on.is_set()
        assert list(answer.shares) == [("a", Usage(2, 1)), ("b", Usage(2, 1)), ("w", None)]
        writer.go_on.set()
        rest, usage = await _words(answer)
    assert rest == " together"
    *_, (writer_id, share) = answer.shares
    assert (writer_id, answer.decision.experts) == ("w", ("a", "b"))
    assert share is not None
    assert share.completion_tokens == 2
    assert usage == Usage(2, 1) + Usage(2, 1) + share


async def test_leaving_an_answer_in_the_middle_stops_who_writes_it() -> None:
    writer = Halting("w", "both together")
    composition = _written(writer, a=_says("one"), b=_says("two"))
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        await anext(answer.deltas)
    assert writer.go_on.is_set()


async def test_writer_that_breaks_off_is_not_hidden_by_a_vote() -> None:
    writer = ScriptedEngine(Expert("w", ScriptedSpec(default="both together", fail_after_tokens=1)))
    composition = _written(writer, a=_says("one"), b=_says("two"))
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert (await anext(answer.deltas)).text == "both"
        with pytest.raises(UpstreamError, match="'w'"):
            await anext(answer.deltas)
        assert answer.shares[-1] == ("w", None)


async def test_uncounted_share_leaves_the_sum_uncounted() -> None:
    class Uncounted(ScriptedEngine):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
            yield Delta("one")
            yield Delta(finish_reason="stop")

    engines = _engines({"a": _says("one"), "b": _says("two")})
    engines["a"] = Uncounted(Expert("a", ScriptedSpec()))
    composition = _composed(engines, TopK(2), WeightedVote({}))
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert await _words(answer) == ("one", None)
        assert list(answer.shares) == [("a", None), ("b", Usage(2, 1))]


async def test_chain_is_heard_while_its_last_expert_speaks() -> None:
    last = Halting("b", "final word")
    engines: dict[str, Engine] = {**_engines({"a": _says("first draft")}), "b": last}
    composition = _composed(engines, TopK(2), Chain())
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert (await anext(answer.deltas)).text == "final"
        assert not last.go_on.is_set()
        last.go_on.set()
        rest, usage = await _words(answer)
    assert (rest, answer.decision.experts) == (" word", ("a", "b"))
    (_, first), (_, second) = answer.shares
    assert first is not None
    assert second is not None
    assert usage == first + second


async def test_chain_without_its_last_expert_ends_with_the_draft() -> None:
    engines = _engines({"a": _says("first draft"), "b": DEAD})
    composition = _composed(engines, TopK(2), Chain())
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert await _words(answer) == ("first draft", Usage(2, 2))
        assert answer.decision.experts == ("a",)


async def test_chain_of_one_that_is_left_has_no_draft() -> None:
    engines = _engines({"a": DEAD, "b": _says("alone")})
    composition = _composed(engines, TopK(2), Chain())
    async with composition.answering(REQUEST, composition.decide(REQUEST)) as answer:
        assert (await _words(answer))[0] == "alone"
        assert answer.decision.experts == ("b",)


async def test_chain_of_failures_tells_one_of_them() -> None:
    composition = _composed(_engines({"a": DEAD, "b": DEAD}), TopK(2), Chain())
    with pytest.raises(CoeError, match="'a'"):
        await composition.complete(REQUEST, composition.decide(REQUEST))


async def _told(composition: Composition) -> list[str]:
    heard = Remembering()
    decision = composition.decide(REQUEST)
    async with composition.answering(REQUEST, decision, told=heard) as answer:
        told = list(heard.told)
        await _words(answer)
    assert heard.told == told, "nothing is told once the answer has begun"
    return told


async def test_progress_of_experts_together_is_told_as_they_end() -> None:
    writer = ScriptedEngine(Expert("w", _says("both")))
    composition = _written(writer, a=_says("one more word"), b=DEAD, c=_says("two"))
    told = await _told(composition)
    assert told[0] == "asked a b c"
    assert told[-1] == "writing w"
    assert sorted(told[1:-1]) == ["answered a 2/3", "answered c 1/3", "failed b"]


async def test_progress_of_a_writer_that_fails_is_told() -> None:
    composition = _written(ScriptedEngine(Expert("w", DEAD)), a=_says("one"), b=_says("two"))
    assert (await _told(composition))[-2:] == ["writing w", "failed w"]


async def test_progress_of_experts_in_turn_is_told() -> None:
    engines = _engines({"a": _says("I\ncannot say"), "b": DEAD, "c": _says("The answer is C")})
    composition = _composed(engines, FallbackOnUnreadable(3), MajorityVote(read=stated_answer))
    expected = ["asked a", "answered a 1/None", "asked b", "failed b", "asked c"]
    assert await _told(composition) == [*expected, "answered c 2/None"]


async def test_progress_of_a_chain_ends_with_who_speaks() -> None:
    engines = _engines({"a": _says("first draft"), "b": _says("final word")})
    composition = _composed(engines, TopK(2), Chain())
    assert await _told(composition) == ["asked a", "answered a 1/None", "writing b"]


async def test_progress_of_a_failover_names_who_failed() -> None:
    composition = _composed(_engines({"a": DEAD, "b": _says("yes")}), TopK(1))
    assert await _told(composition) == ["asked a", "failed a", "asked b"]


async def test_progress_tells_of_an_expert_that_has_to_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(HOSTED)
    composition = load_composition(tmp_path / "experts.yaml")
    first = asyncio.create_task(composition.complete(REQUEST, composition.decide(REQUEST)))
    await asyncio.sleep(0)
    assert await _told(composition) == ["waiting a 1", "asked a"]
    await first
    assert await _told(composition) == ["asked a"]
    await composition.stop()


async def test_failures_among_several_are_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    composition = _composed(_engines({"a": DEAD, "b": _says("yes")}), TopK(2))
    with caplog.at_level(logging.INFO):
        await composition.complete(REQUEST, composition.decide(REQUEST))
    logged = [r for r in caplog.records if "'a' was asked with others" in r.getMessage()]
    assert [record.levelno for record in logged] == [logging.INFO]
