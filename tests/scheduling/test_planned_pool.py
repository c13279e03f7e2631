"""What decisions foretell, and what hosted experts are told of it."""

from __future__ import annotations

from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ScriptedSpec
from coe.scheduling import Site, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.planned import PlannedScheduler
from coe.scheduling.planned_pool import PlannedPool, Standing, foreseen

RECRUITED = (("a", "b"), ("b", "a"), ("a",), ())


def test_foreseen_stages_are_the_recruited_and_then_the_writer() -> None:
    assert foreseen(RECRUITED) == [{"a": 3, "b": 2}]
    assert foreseen(RECRUITED, writer="w") == [{"a": 3, "b": 2}, {"w": 2}]
    assert foreseen(RECRUITED, in_turn=True) == [{"a": 2, "b": 1}, {"b": 1, "a": 1}]


def _pool() -> PlannedPool:
    engines = {id_: ScriptedEngine(Expert(id_, ScriptedSpec())) for id_ in "ab"}
    site = Site({"gpu": 1.0}, tuple(Tenant(id_, gib=1.0) for id_ in "ab"))
    dispatcher = Dispatcher(engines, lambda effects: PlannedScheduler(site, effects))
    assert isinstance(dispatcher.scheduler, PlannedScheduler)
    return PlannedPool(dispatcher, dispatcher.scheduler)


async def test_planned_pool_passes_over_experts_that_are_not_hosted() -> None:
    pool = _pool()
    assert pool.hosts(["a", "b"])
    assert not pool.hosts(["a", "remote"])
    assert pool.expect([{"remote": 5}]) is None
    made = pool.expect([{"a": 2, "remote": 5}, {"remote": 1}, {"b": 1}])
    assert made is not None
    assert (made.n_loads, made.bounds.n_loads) == (2, 2)
    assert pool.standing == Standing(0, 2)
    pool.forget()
    assert pool.standing == Standing(0, 0)
