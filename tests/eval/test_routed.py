"""What hosted experts are told of a run that goes on: only what is still to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from coe.aggregation import Chain, LLMAggregator
from coe.composition import Composition
from coe.engines.scripted import ScriptedEngine
from coe.eval.asking import LiveSettings
from coe.eval.live import ask_everyone
from coe.eval.routed import ask_routed
from coe.eval.runs.journal import Journal, Record, Spot
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.baselines import RandomScorer
from coe.routers.policies import TopK
from coe.routing import Router, RoutingDecision
from coe.scheduling import Site, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.plan import Plan
from coe.scheduling.planned import Expected, PlannedScheduler
from coe.scheduling.planned_pool import PlannedPool
from coe.types import Completion, Query

POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec(default=id_)) for id_ in "ab"))
QUERIES = tuple(Query(f"question {i}", f"q{i}") for i in range(3))
SAID = Completion("said", "stop", None)


class _Told(PlannedPool):
    """Keeps what it is told to expect."""

    expected: Sequence[Mapping[str, int]] = ()

    def expect(self, stages: Sequence[Expected]) -> Plan | None:
        self.expected = [dict(stage) for stage in stages]
        return super().expect(stages)


def _hosted(writer: str | None = None) -> tuple[dict[str, ScriptedEngine], _Told]:
    engines = {expert.id: ScriptedEngine(expert) for expert in POOL}
    site = Site({"gpu": 2.0}, tuple(Tenant(id_, gib=1.0) for id_ in POOL.ids))
    dispatcher = Dispatcher(engines, lambda effects: PlannedScheduler(site, effects))
    assert isinstance(dispatcher.scheduler, PlannedScheduler)
    return engines, _Told(dispatcher, dispatcher.scheduler, writer)


async def test_everyone_is_expected_to_be_asked_what_was_not_heard(tmp_path: Path) -> None:
    engines, planned = _hosted()
    with Journal(tmp_path / "answers.jsonl") as journal:
        journal.add(Record.of(Spot("answer", "q0", "a"), SAID))
        journal.add(Record.of(Spot("answer", "q1", "a"), SAID))
        settings = LiveSettings(planned=planned, journal=journal)
        await ask_everyone(engines, POOL, QUERIES, settings)
    assert planned.expected == [{"a": 1, "b": 3}]


async def _expected(tmp_path: Path, composition: Composition, planned: _Told) -> object:
    decisions = [RoutingDecision(query.id, ("a", "b"), {}, "fixed") for query in QUERIES]
    with Journal(tmp_path / "answers.jsonl") as journal:
        journal.add(Record.of(Spot("final", "q0"), SAID))
        journal.add(Record.of(Spot("answer", "q1", "a"), SAID))
        journal.add(Record.of(Spot("answer", "q2", "a"), SAID))
        journal.add(Record.of(Spot("answer", "q2", "b"), SAID))
        journal.add(Record.of(Spot("write", "q2", "b"), SAID))
        settings = LiveSettings(planned=planned, journal=journal)
        await ask_routed(composition, QUERIES, decisions, settings)
    return planned.expected


async def test_routed_queries_are_expected_stage_by_stage_without_what_was_heard(
    tmp_path: Path,
) -> None:
    engines, planned = _hosted(writer="b")
    router = Router(RandomScorer(POOL.ids), TopK(2), POOL)
    composition = Composition(router, engines, LLMAggregator(engines["b"]))
    assert await _expected(tmp_path, composition, planned) == [{"b": 1}, {"b": 1}]


async def test_experts_asked_in_turn_are_expected_in_turn(tmp_path: Path) -> None:
    engines, planned = _hosted()
    router = Router(RandomScorer(POOL.ids), TopK(2), POOL)
    composition = Composition(router, engines, Chain())
    assert await _expected(tmp_path, composition, planned) == [{}, {"b": 1}]
