"""What a composition counts, of its experts and of its clients' requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from coe.composition import Composition
from coe.engines.base import Engine, EngineState
from coe.engines.scripted import ScriptedEngine
from coe.errors import DeadlineExceeded, QueueFull, UpstreamError, UpstreamTimeout
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.telemetry import ExpertCounts, kind_of
from coe.types import Delta, GenerationRequest, Message, Query

REQUEST = GenerationRequest((Message("user", "hello there"),), id="q")


class InOrder:
    """The first expert is the best."""

    name = "in-order"

    def __init__(self, expert_ids: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(-np.arange(len(self.expert_ids), dtype=float), (len(queries), 1))


class Line:
    """Says what it is given; an exception among it is raised."""

    state = EngineState.READY

    def __init__(self, expert_id: str, *line: Delta | Exception) -> None:
        self.expert_id = expert_id
        self._line = line

    async def ensure_ready(self, timeout_s: float) -> None:
        return

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        for item in self._line:
            await asyncio.sleep(0)
            if isinstance(item, Exception):
                raise item
            yield item

    async def stop(self, timeout_s: float) -> None:
        return


def _composition(*engines: Engine, k: int = 1) -> Composition:
    pool = ExpertPool(tuple(Expert(engine.expert_id, ScriptedSpec()) for engine in engines))
    router = Router(InOrder(pool.ids), TopK(k), pool)
    return Composition(router, {engine.expert_id: engine for engine in engines})


def _says(expert_id: str, text: str) -> Engine:
    return ScriptedEngine(Expert(expert_id, ScriptedSpec(default=text)))


async def test_answers_are_counted_with_their_tokens() -> None:
    composition = _composition(_says("a", "one two three"), _says("b", "x"))
    for pinned in (None, "a", "b"):
        await composition.complete(REQUEST, composition.decide(REQUEST, pinned))
    counts = composition.counters
    assert (counts.requests, counts.answers, counts.failures) == (3, 3, {})
    assert counts.experts == {
        "a": ExpertCounts(2, 2, prompt_tokens=4, completion_tokens=6),
        "b": ExpertCounts(1, 1, prompt_tokens=2, completion_tokens=1),
    }


async def test_recruited_experts_are_counted_each_and_the_request_once() -> None:
    broken = Line("b", UpstreamError("b", "down"))
    composition = _composition(_says("a", "yes"), broken, _says("c", "yes"), k=3)
    await composition.complete(REQUEST, composition.decide(REQUEST))
    counts = composition.counters
    assert (counts.requests, counts.answers, counts.failures) == (1, 1, {})
    assert [counts.experts[id_].answers for id_ in "abc"] == [1, 0, 1]
    assert counts.experts["b"].failures == {"upstream_error": 1}
    assert counts.experts["b"].failovers == 0


async def test_failovers_are_counted_where_the_request_went_away_from() -> None:
    composition = _composition(
        Line("a", QueueFull("full", 1.0)), Line("b", UpstreamTimeout("b", 1.0)), _says("c", "hi")
    )
    await composition.complete(REQUEST, composition.decide(REQUEST))
    experts = composition.counters.experts
    assert [experts[id_].failovers for id_ in "abc"] == [1, 1, 0]
    assert experts["a"].failures == {"queue_full": 1}
    assert experts["b"].failures == {"upstream_timeout": 1}
    assert composition.counters.failures == {}


async def test_deadline_of_a_client_is_no_reason_to_ask_another() -> None:
    composition = _composition(Line("a", DeadlineExceeded("late")), _says("b", "hi"))
    with pytest.raises(DeadlineExceeded):
        await composition.complete(REQUEST, composition.decide(REQUEST))
    counts = composition.counters
    assert counts.failures == {"deadline_exceeded": 1}
    assert (counts.experts["a"].failovers, counts.experts["b"].requests) == (0, 0)


async def test_request_that_fails_everywhere_is_counted_by_what_it_is_told() -> None:
    down = [Line(id_, UpstreamError(id_, "down")) for id_ in "ab"]
    composition = _composition(*down)
    with pytest.raises(UpstreamError, match="'a'"):
        await composition.complete(REQUEST, composition.decide(REQUEST))
    counts = composition.counters
    assert (counts.requests, counts.answers, counts.failures) == (1, 0, {"upstream_error": 1})
    # From the last one it went nowhere.
    assert [counts.experts[id_].failovers for id_ in "ab"] == [1, 0]


async def test_defect_is_counted_as_unexpected() -> None:
    composition = _composition(Line("a", ValueError("a defect")))
    with pytest.raises(ValueError, match="a defect"):
        await composition.complete(REQUEST, composition.decide(REQUEST))
    assert composition.counters.failures == {"unexpected": 1}
    assert composition.counters.experts["a"].failures == {"unexpected": 1}


async def test_answer_that_is_left_is_abandoned() -> None:
    composition = _composition(_says("a", "one two three"))
    stream = composition.stream(REQUEST, composition.decide(REQUEST))
    await anext(stream)
    await stream.aclose()
    counts = composition.counters
    assert (counts.requests, counts.answers, counts.abandoned) == (1, 0, 1)
    assert counts.experts["a"] == ExpertCounts(1, abandoned=1)


async def test_answer_whose_tokens_nobody_told_is_counted_as_that() -> None:
    composition = _composition(Line("a", Delta("hi"), Delta(finish_reason="stop")))
    await composition.complete(REQUEST, composition.decide(REQUEST))
    assert composition.counters.experts["a"] == ExpertCounts(1, 1, uncounted_answers=1)


async def test_counters_are_a_snapshot() -> None:
    composition = _composition(_says("a", "x"))
    before = composition.counters
    await composition.complete(REQUEST, composition.decide(REQUEST))
    assert before.requests == 0
    assert before.experts["a"] == ExpertCounts()


def test_kind_of_failure_is_its_name_in_small_letters() -> None:
    assert kind_of(UpstreamTimeout("e", 1.0)) == "upstream_timeout"
    assert kind_of(QueueFull("full", 1.0)) == "queue_full"
