from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coe.composition import Composition, Conduct
from coe.engines.base import Engine, EngineState
from coe.engines.scripted import ScriptedEngine
from coe.errors import StartupError
from coe.eval.asking import LiveSettings
from coe.eval.datasets import Grade, QuestionSet, load_outcomes, save_outcomes
from coe.eval.live import Failure, run_live
from coe.eval.routed import run_routed
from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.routing import FloatArray, Router
from coe.scheduling import Site, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.planned import PlannedScheduler
from coe.scheduling.planned_pool import PlannedPool
from coe.types import Delta, GenerationRequest, Query, SamplingParams

_QUESTIONS = QuestionSet(
    queries=(Query("one and one", "q1", "sums"), Query("capital of Peru", "q2", "places")),
    answers={"q1": "two", "q2": "Lima"},
    splits=("test", "test"),
)
_SUMS = Expert("sums", ScriptedSpec({"one": "two"}, "no idea"), price=Price(1e6, 2e6))
_PLACES = Expert("places", ScriptedSpec({"Peru": "Lima"}, "no idea"))
_DYING = Expert("dying", ScriptedSpec({"one": "two words"}, "Lima", fail_after_tokens=1))


class _Counter:
    def __init__(self) -> None:
        self.done = 0

    def advance(self, n: int = 1) -> None:
        self.done += n


class _Unstartable(ScriptedEngine):
    """Cannot be made ready."""

    tries = 0

    async def ensure_ready(self, timeout_s: float) -> None:
        self.tries += 1
        raise StartupError(self.expert_id, "no such model")


class _Watched(ScriptedEngine):
    """Counts the streams that are open at once."""

    open = 0
    most = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        async for delta in super().stream(request):
            yield delta
        self.open -= 1


class _ByCategory:
    name = "by-category"

    def __init__(self, pool: ExpertPool) -> None:
        self.expert_ids = pool.ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array([[float(q.category == id_) for id_ in self.expert_ids] for q in queries])


class _Top:
    name = "top-1"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        return (pool.ids[int(np.argmax(scores))],)


async def test_every_expert_is_asked_every_query() -> None:
    engines = {e.id: ScriptedEngine(e) for e in (_SUMS, _PLACES)}
    counter = _Counter()
    pool = ExpertPool((_SUMS, _PLACES))
    run = await run_live(
        engines, pool, _QUESTIONS.queries, _QUESTIONS.grade, LiveSettings(), counter
    )
    np.testing.assert_array_equal(run.table.scores, [[1, 0], [0, 1]])
    assert run.table.answers == (("two", "no idea"), ("no idea", "Lima"))
    assert run.table.queries == _QUESTIONS.queries
    assert run.failures == ()
    assert counter.done == 4
    assert [request.id for request in engines["sums"].requests] == ["q1", "q2"]


async def test_tokens_are_recorded_and_priced() -> None:
    run = await run_live(
        {"sums": ScriptedEngine(_SUMS)}, ExpertPool((_SUMS,)), _QUESTIONS.queries, _QUESTIONS.grade
    )
    prompt, completion = run.further["prompt_tokens"], run.further["completion_tokens"]
    assert [row[0] for row in prompt] == [3, 3]
    assert [row[0] for row in completion] == [1, 2]
    assert run.table.cost_usd is not None
    np.testing.assert_allclose(run.table.cost_usd[:, 0], [3 + 2, 3 + 4])


async def test_failure_is_a_record_and_no_zero() -> None:
    run = await run_live(
        {"dying": ScriptedEngine(_DYING)},
        ExpertPool((_DYING,)),
        _QUESTIONS.queries,
        _QUESTIONS.grade,
    )
    np.testing.assert_array_equal(run.table.scores[:, 0], [np.nan, 1.0])
    error = "expert 'dying': scripted to fail after 1 tokens"
    assert run.failures == (Failure("q1", ("dying",), error),)
    assert run.further["error"] == [[error], [None]]


async def test_expert_that_cannot_start_is_tried_once_and_does_not_stop_the_others() -> None:
    broken = _Unstartable(Expert("broken", ScriptedSpec()))
    pool = ExpertPool((Expert("broken", ScriptedSpec()), _PLACES))
    counter = _Counter()
    run = await run_live(
        {"broken": broken, "places": ScriptedEngine(_PLACES)},
        pool,
        _QUESTIONS.queries,
        _QUESTIONS.grade,
        progress=counter,
    )
    np.testing.assert_array_equal(run.table.scores, [[np.nan, 0], [np.nan, 1]])
    assert (broken.tries, counter.done, len(run.failures)) == (1, 4, 2)
    assert broken.requests == []


async def test_expert_that_is_left_out_is_not_asked_and_its_queries_are_failures() -> None:
    pool = ExpertPool((_SUMS, _PLACES))
    engines = {e.id: ScriptedEngine(e) for e in pool}
    counter = _Counter()
    settings = LiveSettings(without={"sums": StartupError("sums", "not ready within 60 s")})
    run = await run_live(engines, pool, _QUESTIONS.queries, _QUESTIONS.grade, settings, counter)
    np.testing.assert_array_equal(run.table.scores, [[np.nan, 0], [np.nan, 1]])
    assert [failure.experts for failure in run.failures] == [("sums",), ("sums",)]
    assert (counter.done, engines["sums"].requests) == (4, [])


async def test_mistakes_of_the_program_are_not_recorded_as_the_experts() -> None:
    class Mistaken(ScriptedEngine):
        def answer(self, request: GenerationRequest) -> str:
            raise ZeroDivisionError

    def wrong(query: Query, completion: str) -> Grade:
        raise ZeroDivisionError

    pool = ExpertPool((_SUMS,))
    with pytest.raises(ZeroDivisionError):
        await run_live({"sums": ScriptedEngine(_SUMS)}, pool, _QUESTIONS.queries, wrong)
    with pytest.raises(ExceptionGroup) as raised:
        await run_live({"sums": Mistaken(_SUMS)}, pool, _QUESTIONS.queries, _QUESTIONS.grade)
    assert raised.group_contains(ZeroDivisionError)


async def test_no_more_queries_are_in_flight_than_allowed() -> None:
    engine = _Watched(_SUMS)
    queries = tuple(Query("one", f"q{i}") for i in range(12))
    questions = QuestionSet(queries, {q.id: "two" for q in queries}, ("test",) * 12)
    run = await run_live(
        {"sums": engine},
        ExpertPool((_SUMS,)),
        queries,
        questions.grade,
        LiveSettings(concurrency=3),
    )
    assert engine.most == 3
    assert run.table.means() == [1.0]


@pytest.mark.parametrize(
    ("stop_each", "state"), [(True, EngineState.STOPPED), (False, EngineState.READY)]
)
async def test_expert_is_freed_only_on_demand(stop_each: bool, state: EngineState) -> None:
    engine = ScriptedEngine(_SUMS)
    await run_live(
        {"sums": engine},
        ExpertPool((_SUMS,)),
        _QUESTIONS.queries,
        _QUESTIONS.grade,
        LiveSettings(stop_each=stop_each),
    )
    assert engine.state is state


async def test_live_run_survives_being_saved(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    file = tmp_path / "run.parquet"
    pool = ExpertPool((_SUMS, _DYING))
    engines = {e.id: ScriptedEngine(e) for e in pool}
    run = await run_live(engines, pool, _QUESTIONS.queries, _QUESTIONS.grade)
    save_outcomes(run.table, file, _QUESTIONS.splits, run.further)
    read = load_outcomes(file, "test")
    assert read.digest() == run.table.digest()
    assert read.answers == run.table.answers


def _composition(pool: ExpertPool) -> tuple[Composition, dict[str, ScriptedEngine]]:
    engines = {expert.id: ScriptedEngine(expert) for expert in pool}
    return Composition(Router(_ByCategory(pool), _Top(), pool), engines), engines


async def test_queries_are_really_routed() -> None:
    composition, engines = _composition(ExpertPool((_SUMS, _PLACES)))
    counter = _Counter()
    run = await run_routed(composition, _QUESTIONS.queries, _QUESTIONS.grade, progress=counter)
    assert [decision.experts for decision in run.decisions] == [("sums",), ("places",)]
    assert run.scores == [1.0, 1.0]
    assert counter.done == 2
    assert {id_: len(engine.requests) for id_, engine in engines.items()} == {
        "sums": 1,
        "places": 1,
    }


async def test_queries_of_one_expert_are_asked_together_and_reported_in_order() -> None:
    order: list[str] = []

    class Noting(ScriptedEngine):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
            order.append(self.expert_id)
            async for delta in super().stream(request):
                yield delta

    pool = ExpertPool((_SUMS, _PLACES))
    composition = Composition(
        Router(_ByCategory(pool), _Top(), pool), {e.id: Noting(e) for e in pool}
    )
    queries = tuple(
        Query(("one", "Peru")[i % 2], f"q{i}", ("sums", "places")[i % 2]) for i in range(6)
    )
    questions = QuestionSet(
        queries, {q.id: ("two", "Lima")[i % 2] for i, q in enumerate(queries)}, ("test",) * 6
    )
    run = await run_routed(composition, queries, questions.grade)
    assert order == ["sums"] * 3 + ["places"] * 3
    assert run.scores == [1.0] * 6


@pytest.mark.parametrize("decides_slowly", [True, False])
async def test_slow_decisions_are_made_in_a_thread(decides_slowly: bool) -> None:
    threads: list[bool] = []

    class Noting(_ByCategory):
        def score(self, queries: Sequence[Query]) -> FloatArray:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().score(queries)

    pool = ExpertPool((_SUMS, _PLACES))
    engines = {expert.id: ScriptedEngine(expert) for expert in pool}
    router = Router(Noting(pool), _Top(), pool)
    composition = Composition(router, engines, conduct=Conduct(decides_slowly=decides_slowly))
    run = await run_routed(composition, _QUESTIONS.queries, _QUESTIONS.grade)
    assert run.scores == [1.0, 1.0]
    assert threads == [not decides_slowly]


async def test_routed_failure_is_a_record() -> None:
    dying = Expert("sums", _DYING.engine)
    composition, _ = _composition(ExpertPool((dying, _PLACES)))
    run = await run_routed(composition, _QUESTIONS.queries, _QUESTIONS.grade)
    assert np.isnan(run.scores[0])
    assert run.scores[1] == 1.0
    assert run.completions[0] is None
    assert [failure.query_id for failure in run.failures] == ["q1"]


async def test_sampling_is_passed_on() -> None:
    engine = ScriptedEngine(_PLACES)
    await run_live(
        {"places": engine},
        ExpertPool((_PLACES,)),
        _QUESTIONS.queries,
        _QUESTIONS.grade,
        LiveSettings(SamplingParams(max_tokens=5)),
    )
    assert {request.params.max_tokens for request in engine.requests} == {5}


class _Starting(ScriptedEngine):
    """Counts how often it was started."""

    starts = 0

    async def _start(self) -> None:
        self.starts += 1


def _planned(
    pool: ExpertPool, make: type[_Starting] = _Starting
) -> tuple[dict[str, _Starting], dict[str, Engine], PlannedPool]:
    """Experts that are hosted, with room for one, their engines, and who is told of the plan.

    `make` is for the first of them.
    """
    kinds: list[type[_Starting]] = [make, *[_Starting] * len(pool)]
    inner = {expert.id: kind(expert) for expert, kind in zip(pool, kinds, strict=False)}
    site = Site({"gpu": 1.0}, tuple(Tenant(id_, gib=1.0) for id_ in pool.ids))
    dispatcher = Dispatcher(inner, lambda effects: PlannedScheduler(site, effects))
    assert isinstance(dispatcher.scheduler, PlannedScheduler)
    engines: dict[str, Engine] = {id_: HostedEngine(inner[id_], dispatcher) for id_ in pool.ids}
    return inner, engines, PlannedPool(dispatcher, dispatcher.scheduler)


async def test_planned_experts_are_loaded_once_whatever_is_asked() -> None:
    other = Expert("other", ScriptedSpec({}, "Lima"))
    pool = ExpertPool((_SUMS, _PLACES, other))
    inner, engines, planned = _planned(ExpertPool((_SUMS, _PLACES)))
    engines["other"] = ScriptedEngine(other)
    counter = _Counter()
    settings = LiveSettings(concurrency=1, planned=planned)
    run = await run_live(engines, pool, _QUESTIONS.queries, _QUESTIONS.grade, settings, counter)
    np.testing.assert_array_equal(run.table.scores, [[1, 0, 0], [0, 1, 1]])
    assert counter.done == 6
    assert [engine.starts for engine in inner.values()] == [1, 1]


async def test_planned_routed_queries_begin_with_who_is_there() -> None:
    pool = ExpertPool((_SUMS, _PLACES))
    inner, engines, planned = _planned(pool)
    await engines["places"].ensure_ready(5.0)
    composition = Composition(Router(_ByCategory(pool), _Top(), pool), engines)
    queries = tuple(
        Query(("one", "Peru")[i % 2], f"q{i}", ("sums", "places")[i % 2]) for i in range(20)
    )
    questions = QuestionSet(
        queries, {q.id: ("two", "Lima")[i % 2] for i, q in enumerate(queries)}, ("test",) * 20
    )
    settings = LiveSettings(planned=planned)
    run = await run_routed(composition, queries, questions.grade, settings)
    assert run.scores == [1.0] * 20
    assert [engine.starts for engine in inner.values()] == [1, 1]


async def test_planned_expert_that_cannot_start_is_a_failure_of_its_queries_alone() -> None:
    class Broken(_Starting):
        async def _start(self) -> None:
            raise StartupError(self.expert_id, "no such model")

    pool = ExpertPool((_SUMS, _PLACES))
    _, engines, planned = _planned(pool, Broken)
    settings = LiveSettings(planned=planned)
    run = await run_live(engines, pool, _QUESTIONS.queries, _QUESTIONS.grade, settings)
    np.testing.assert_array_equal(run.table.scores, [[np.nan, 0], [np.nan, 1]])
    assert {failure.experts for failure in run.failures} == {("sums",)}
