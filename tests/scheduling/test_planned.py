"""Requests held back for a plan: as few loads as the plan has, and nobody left behind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import StartupError, UnknownExpert
from coe.scheduling import Effects, Residency, Site, SwapCosts, SwapScheduler, Tenant, Ticket
from coe.scheduling.plan import Plan
from coe.scheduling.planned import PlannedScheduler
from coe.scheduling.recording import RecordingEffects
from coe.scheduling.service_model import ServiceModel
from coe.scheduling.simulator import Run, Simulator
from coe.scheduling.traces import Arrival

Rounds = Sequence[Sequence[str]]
"""One query: the experts it asks at once, round after round."""


class Told(PlannedScheduler):
    """Tells who has been served."""

    served: Callable[[float, Ticket], None]

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        super().on_finish(now, ticket, ok)
        self.served(now, ticket)


class ToldOnline(SwapScheduler):
    """The same without a plan."""

    served: Callable[[float, Ticket], None]

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        super().on_finish(now, ticket, ok)
        self.served(now, ticket)


class Queries(Simulator):
    """Queries that ask their next round once the one before is over."""

    def __init__(
        self, site: Site, queries: Sequence[Rounds], make: type[Told | ToldOnline] = Told
    ) -> None:
        super().__init__(site, ServiceModel(), make)
        self._queries = queries
        self._left: dict[int, tuple[int, int]] = {}
        self._owners: dict[str, int] = {}
        assert isinstance(self.scheduler, Told | ToldOnline)
        self.scheduler.served = self._served

    def expect(self, n_rounds: int = 99) -> Plan:
        assert isinstance(self.scheduler, Told)
        most = min(n_rounds, max(map(len, self._queries)))
        stages = [
            Counter(e for query in self._queries if len(query) > i for e in query[i])
            for i in range(most)
        ]
        return self.scheduler.expect(self._now, stages)

    def answered(self) -> Run:
        for number in range(len(self._queries)):
            self._ask(number, 0)
        while self._events:
            self._now, _, event = heappop(self._events)
            event(self._now)
            self._plan_tick()
        assert all(record.ended_s is not None for record in self._records.values())
        assert len(self._records) == sum(len(one) for query in self._queries for one in query)
        return self._run

    def _ask(self, number: int, at: int) -> None:
        self._left[number] = (at, len(self._queries[number][at]))
        for expert_id in self._queries[number][at]:
            self._owners[str(len(self._owners))] = number
            self._at(self._now, self._arrive(Arrival(self._now, expert_id, 1.0)))

    def _served(self, now: float, ticket: Ticket) -> None:
        number = self._owners[ticket.id]
        at, n_left = self._left[number]
        self._left[number] = (at, n_left - 1)
        if n_left == 1 and at + 1 < len(self._queries[number]):
            self._ask(number, at + 1)


def _site(n: int, room: float, n_devices: int = 1, gib: Sequence[float] = (1.0,)) -> Site:
    tenants = tuple(
        Tenant(f"e{i:02}", gib[i % len(gib)], costs=SwapCosts(load_s=20.0)) for i in range(n)
    )
    return Site({f"gpu{i}": room for i in range(n_devices)}, tenants)


def _ids(site: Site) -> list[str]:
    return [tenant.expert_id for tenant in site.tenants]


@pytest.mark.parametrize(("n", "room", "n_devices"), [(6, 1, 1), (6, 2, 1), (16, 4, 1), (16, 2, 2)])
def test_planned_stage_loads_as_often_as_the_bound(n: int, room: int, n_devices: int) -> None:
    site, rng = _site(n, room, n_devices), random.Random(n)
    world = Queries(site, [[rng.sample(_ids(site), 1)] for _ in range(200)])
    made = world.expect()
    assert world.answered().loads == made.bounds.n_loads == n


@pytest.mark.parametrize("writer", ["e00", "e05", "e15"])
@pytest.mark.parametrize(("room", "n_devices"), [(1, 1), (2, 1), (2, 2)])
def test_planned_stages_with_a_writer_keep_to_the_bound(
    writer: str, room: int, n_devices: int
) -> None:
    site, rng = _site(16, room, n_devices), random.Random(room)
    queries = [[rng.sample(_ids(site), 3), [writer]] for _ in range(200)]
    world = Queries(site, queries)
    made = world.expect()
    assert world.answered().loads <= 1.03 * made.bounds.n_loads


def test_planned_stages_carry_over_what_the_plan_carries() -> None:
    site, rng = _site(12, 5.0, gib=(1.0, 2.0, 1.5)), random.Random(3)
    queries = [[rng.sample(_ids(site), 2) for _ in range(4)] for _ in range(100)]
    world = Queries(site, queries)
    made = world.expect()
    loads = world.answered().loads
    assert loads <= made.n_loads
    assert loads < Queries(site, queries, ToldOnline).answered().loads


def test_planned_unforeseen_rounds_are_planned_as_they_come() -> None:
    site, rng = _site(16, 2.0), random.Random(5)
    queries = [[[rng.choice(_ids(site))] for _ in range(rng.randint(1, 4))] for _ in range(300)]
    foreseen, surprised = Queries(site, queries), Queries(site, queries)
    foreseen.expect()
    surprised.expect(1)
    n_loads = surprised.answered().loads
    assert n_loads <= 1.2 * foreseen.answered().loads
    assert n_loads <= 1.1 * Queries(site, queries, ToldOnline).answered().loads


def _odd_site(rng: random.Random) -> Site:
    """Experts of many sizes, some that sleep, span two devices, or keep apart."""
    devices = {f"gpu{i}": rng.choice([2.0, 3.0, 4.0]) for i in range(rng.randint(1, 3))}
    labels = frozenset({"one"})
    tenants = [
        Tenant(
            f"e{i}",
            rng.choice([0.5, 1.0, 2.0]),
            (tuple(rng.sample(list(devices), 2)),)
            if len(devices) > 1 and rng.random() < 0.2
            else (),
            asleep_gib=rng.choice([None, None, 1.0]),
            residue_gib=rng.choice([0.0, 0.25]),
            costs=SwapCosts(load_s=rng.choice([0.5, 5.0, 30.0])),
            max_in_flight=rng.choice([1, 8]),
            apart=labels if rng.random() < 0.2 else frozenset(),
        )
        for i in range(rng.randint(2, 7))
    ]
    tenants.append(Tenant("adapter", 0.0, base="e0"))
    return Site(devices, tuple(tenants), host_gib=rng.choice([0.0, 2.0]))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_planned_requests_of_all_kinds_are_all_served(seed: int) -> None:
    """The world that they run in raises where memory or a rule of the house is broken."""
    rng = random.Random(seed)
    site = _odd_site(rng)
    ids = _ids(site)
    queries = [
        [rng.sample(ids, rng.randint(1, min(3, len(ids)))) for _ in range(rng.randint(1, 4))]
        for _ in range(rng.randint(1, 40))
    ]
    world = Queries(site, queries)
    world.expect(rng.randint(0, 4))
    world.answered()


class Table:
    """A planned scheduler whose effects are written down and answered by hand."""

    def __init__(self, n: int = 3, room: float = 1.0) -> None:
        self.effects = RecordingEffects()
        effects: Effects = self.effects
        self.scheduler = PlannedScheduler(_site(n, room), effects)
        self.scheduler.on_start(0.0)
        self.now = 0.0

    def arrive(self, *names: str) -> None:
        for name in names:
            expert_id, _, _ = name.partition(".")
            self.scheduler.on_arrival(self.now, Ticket(name, expert_id))

    def finish(self, name: str) -> None:
        self.scheduler.on_finish(self.now, Ticket(name, name.partition(".")[0]))

    def lines(self) -> list[str]:
        return self.effects.taken()


def test_planned_next_expert_comes_while_the_one_before_still_serves() -> None:
    table = Table(3, room=2.0)
    table.scheduler.expect(0.0, [{"e00": 2, "e01": 2, "e02": 1}])
    table.arrive("e00.1", "e01.1", "e02.1", "e00.2", "e01.2")
    assert table.lines() == ["load e00 on gpu0", "load e01 on gpu0"]
    table.scheduler.on_loaded(0.0, "e00")
    table.scheduler.on_loaded(0.0, "e01")
    assert table.lines() == ["grant e00.1", "grant e00.2", "grant e01.1", "grant e01.2"]
    table.finish("e00.1")
    assert table.lines() == []
    table.finish("e00.2")
    assert table.lines() == ["evict e00"]
    table.scheduler.on_evicted(0.0, "e00")
    assert table.lines() == ["load e02 on gpu0"]


def test_planned_visit_waits_until_the_one_before_has_handed_out() -> None:
    table = Table(2, room=2.0)
    table.scheduler.expect(0.0, [{"e00": 10, "e01": 2}])
    table.arrive("e01.0", "e01.1", *(f"e00.{i}" for i in range(10)))
    table.scheduler.on_loaded(0.0, "e00")
    table.scheduler.on_loaded(0.0, "e01")
    granted = [line for line in table.lines() if line.startswith("grant")]
    # One of the second expert's made it come; the others wait for the first expert's tail.
    assert granted == [*(f"grant e00.{i}" for i in range(8)), "grant e01.0"]
    table.finish("e00.0")
    assert table.lines() == ["grant e00.8"]
    table.finish("e00.1")
    assert table.lines() == ["grant e00.9", "grant e01.1"]


def test_planned_residents_are_served_before_they_leave() -> None:
    table = Table(3, room=1.0)
    table.arrive("e02.0")
    table.scheduler.on_loaded(0.0, "e02")
    table.finish("e02.0")
    table.lines()
    made = table.scheduler.expect(0.0, [{"e00": 1, "e02": 1}])
    table.arrive("e00.0", "e02.1")
    assert table.lines() == ["grant e02.1"]
    assert made.n_loads == 1


def test_planned_load_that_fails_refuses_its_own_requests_alone() -> None:
    table = Table(2, room=1.0)
    table.scheduler.expect(0.0, [{"e00": 2, "e01": 1}])
    table.arrive("e00.0", "e00.1", "e01.0")
    table.scheduler.on_load_failed(0.0, "e00", StartupError("e00", "no such model"))
    lines = table.lines()
    assert sorted(line.split(":")[0] for line in lines if line.startswith("refuse")) == [
        "refuse e00.0",
        "refuse e00.1",
    ]
    assert lines[-1] == "load e01 on gpu0"


def test_planned_requests_that_never_come_hold_nobody_up() -> None:
    table = Table(2, room=1.0)
    table.scheduler.expect(0.0, [{"e00": 5}, {"e01": 1}])
    table.arrive("e01.0")
    assert table.lines() == []
    at_s = table.scheduler.next_wakeup()
    assert at_s is not None
    table.scheduler.on_tick(at_s)
    assert table.lines() == ["load e01 on gpu0"]


def test_planned_requests_that_are_held_can_be_cancelled_and_refused() -> None:
    table = Table(2, room=1.0)
    table.scheduler.expect(0.0, [{"e00": 1, "e01": 2}])
    table.arrive("e00.0", "e01.0", "e01.1")
    assert table.scheduler.n_waiting == 3
    table.scheduler.on_cancel(0.0, Ticket("e01.0", "e01"))
    assert table.scheduler.n_waiting == 2
    table.lines()
    table.scheduler.on_shutdown(0.0)
    assert [line.split(":")[0] for line in table.lines()] == ["refuse e01.1", "refuse e00.0"]
    assert table.scheduler.n_waiting == 0


def test_planned_scheduler_without_a_plan_holds_nobody() -> None:
    table = Table(2, room=2.0)
    table.scheduler.expect(0.0, [{"e00": 1, "e01": 1}])
    table.arrive("e01.0", "e00.0")
    table.lines()
    table.scheduler.forget(0.0)
    table.arrive("e01.1")
    table.scheduler.on_loaded(0.0, "e01")
    assert table.lines() == ["grant e01.0", "grant e01.1"]
    residencies = {lane.expert_id: lane.residency for lane in table.scheduler.lanes}
    assert residencies["e01"] is Residency.AWAKE


def test_planned_experts_have_to_be_known() -> None:
    with pytest.raises(UnknownExpert, match="e99"):
        Table().scheduler.expect(0.0, [{"e99": 1}])


SMALL = Site({"g": 1.0}, (Tenant("a", 1.0), Tenant("b", 1.0)))


def _planned() -> tuple[PlannedScheduler, RecordingEffects]:
    """Follows a plan in which a comes before b; two wait for each."""
    effects = RecordingEffects()
    scheduler = PlannedScheduler(SMALL, effects)
    scheduler.on_start(0.0)
    scheduler.expect(0.0, [{"a": 2}, {"b": 2}])
    for number, expert_id in enumerate("aabb"):
        scheduler.on_arrival(0.0, Ticket(str(number), expert_id))
    return scheduler, effects


def test_expert_that_is_removed_leaves_the_plan_and_those_held_for_it() -> None:
    scheduler, effects = _planned()
    assert effects.taken() == ["load a on g"]
    scheduler.on_remove(1.0, "b")
    assert effects.taken() == ["refuse 2: ExpertRemoved", "refuse 3: ExpertRemoved"]
    assert (scheduler.n_held, scheduler.n_loads_ahead) == (0, 0)
    with pytest.raises(UnknownExpert):
        scheduler.on_arrival(1.0, Ticket("4", "b"))
    scheduler.on_loaded(2.0, "a")
    assert effects.taken() == ["grant 0", "grant 1"]
    scheduler.on_finish(3.0, Ticket("0", "a"))
    scheduler.on_finish(3.0, Ticket("1", "a"))
    assert scheduler.n_waiting == 0


def test_expert_that_is_removed_while_it_is_there_makes_way_for_the_plan() -> None:
    scheduler, effects = _planned()
    scheduler.on_loaded(1.0, "a")
    effects.taken()
    scheduler.on_remove(2.0, "a")
    scheduler.on_arrival(2.0, Ticket("4", "a"))
    assert effects.taken() == ["refuse 4: ExpertRemoved"]
    scheduler.on_finish(3.0, Ticket("0", "a"))
    scheduler.on_finish(3.0, Ticket("1", "a"))
    assert effects.taken() == ["evict a"]
    scheduler.on_evicted(4.0, "a")
    assert effects.taken() == ["load b on g"]
    scheduler.on_loaded(5.0, "b")
    assert effects.taken() == ["grant 2", "grant 3"]
    scheduler.on_cancel(5.0, Ticket("9", "a"))


def test_expert_that_is_added_under_a_plan_is_planned_for_when_it_is_asked() -> None:
    scheduler, effects = _planned()
    scheduler.on_add(1.0, Tenant("c", 1.0))
    scheduler.on_arrival(1.0, Ticket("4", "c"))
    served: list[str] = []
    for at in range(2, 40):
        for told in effects.taken():
            what, name, *_ = told.split()
            if what == "load":
                scheduler.on_loaded(float(at), name)
            elif what == "evict":
                scheduler.on_evicted(float(at), name)
            else:
                assert what == "grant"
                served.append(name)
                scheduler.on_finish(float(at), Ticket(name, "aabbc"[int(name)]))
        scheduler.on_tick(float(at))
    assert sorted(served) == ["0", "1", "2", "3", "4"]
