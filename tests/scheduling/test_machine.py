"""The swap state machine against a world that fails wherever it can."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from coe.errors import CoeError, ConfigError, RequestError, ShuttingDown, StartupError
from coe.scheduling import Residency, Site, SwapRules, SwapScheduler, Tenant, Ticket
from coe.scheduling.effects import Effects

SITES = (
    Site({"g0": 2.0}, tuple(Tenant(f"e{i}", 1.0, max_in_flight=2) for i in range(4))),
    Site(
        {"g0": 4.0, "g1": 3.0},
        (
            Tenant("small", 1.0, asleep_gib=1.0, residue_gib=0.25, max_in_flight=1),
            Tenant("medium", 2.0, asleep_gib=2.0, max_in_flight=2, max_queued=5),
            Tenant("large", 3.0, asleep_gib=3.0, residue_gib=0.5),
            Tenant("wide", 1.5, placements=(("g0", "g1"),), asleep_gib=3.0),
            Tenant("pinned", 0.5, placements=(("g0",),), pinned=True),
            Tenant("one", 1.0, apart=frozenset({"port"})),
            Tenant("other", 1.0, apart=frozenset({"port"})),
            Tenant("adapter", 0.0, base="medium"),
        ),
        host_gib=4.0,
    ),
    Site(
        {"g0": 1.0},
        (Tenant("a", 1.0, asleep_gib=1.0), Tenant("b", 0.7, asleep_gib=0.7), Tenant("c", 0.0)),
        host_gib=1.2,
    ),
)
RULES = SwapRules(max_wait_s=20.0, quantum_s=5.0, quantum_swaps=2.0, max_queued=30, beta=1.0)


class World(Effects):
    """Keeps its own books of memory and of every ticket, and objects at once."""

    def __init__(self, site: Site) -> None:
        self.tenants = {tenant.expert_id: tenant for tenant in site.hosts}
        self.base = {tenant.expert_id: tenant.base or tenant.expert_id for tenant in site.tenants}
        self.budget = dict(site.devices)
        self.host_budget = site.host_gib
        self.where = dict.fromkeys(self.tenants, Residency.DISK)
        self.devices: dict[str, tuple[str, ...]] = {}
        self.held = dict.fromkeys(self.tenants, 0.0)
        self.host_held = dict.fromkeys(self.tenants, 0.0)
        self.moving: dict[str, str] = {}
        self.running: dict[str, Ticket] = {}
        self.waiting: dict[str, Ticket] = {}
        self.fate: dict[str, str] = {}
        self.gone: set[str] = set()
        self.known = sorted(self.base)
        self.told: dict[str, bool] = {}
        """Sent away by an operator and not gone yet; whether to disk."""
        self.kept_away: set[str] = set()
        self.removed: set[str] = set()

    def join(self, tenant: Tenant) -> None:
        self.known = sorted([*self.known, tenant.expert_id])
        self.base[tenant.expert_id] = tenant.base or tenant.expert_id
        if tenant.base is None:
            self.tenants[tenant.expert_id] = tenant
            self.where[tenant.expert_id] = Residency.DISK
            self.held[tenant.expert_id] = self.host_held[tenant.expert_id] = 0.0

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        assert self.where[expert_id] is Residency.DISK
        self._come(expert_id, devices)

    def wake(self, expert_id: str, devices: Sequence[str]) -> None:
        assert self.where[expert_id] is Residency.ASLEEP
        assert self.devices[expert_id] == tuple(devices)
        self._come(expert_id, devices)

    def prefetch(self, expert_id: str, devices: Sequence[str]) -> None:
        assert self.where[expert_id] in (Residency.DISK, Residency.ASLEEP)
        self._come(expert_id, devices)

    def _come(self, expert_id: str, devices: Sequence[str]) -> None:
        assert expert_id not in self.moving
        assert expert_id not in self.removed
        asking = [t for t in self.waiting.values() if self.base[t.expert_id] == expert_id]
        assert asking or expert_id not in self.kept_away, "brought back unasked"
        if expert_id not in self.told:
            self.kept_away.discard(expert_id)
        self.where[expert_id] = Residency.LOADING
        self.devices[expert_id] = tuple(devices)
        self.moving[expert_id] = "load"
        self.held[expert_id] = self.tenants[expert_id].gib

    def reached(self, expert_id: str, where: Residency) -> None:
        """It has left for there, which may be all that an operator wanted."""
        self.where[expert_id] = where
        if where is Residency.DISK:
            self.held[expert_id] = self.host_held[expert_id] = 0.0
            if expert_id in self.removed:
                self.removed.discard(expert_id)
                self.forget(expert_id)
        if where is Residency.DISK or self.told.get(expert_id) is False:
            self.told.pop(expert_id, None)

    def forget(self, expert_id: str) -> None:
        self.known = [id_ for id_ in self.known if id_ != expert_id]
        self.where.pop(expert_id, None)

    def sleep(self, expert_id: str) -> None:
        self._may_leave(expert_id)
        assert self.where[expert_id] is Residency.AWAKE
        size = self.tenants[expert_id].asleep_gib
        assert size is not None
        self.host_held[expert_id] = size
        self.where[expert_id] = Residency.LEAVING
        self.moving[expert_id] = "sleep"

    def evict(self, expert_id: str) -> None:
        self._may_leave(expert_id)
        self.where[expert_id] = Residency.LEAVING
        self.moving[expert_id] = "evict"

    def _may_leave(self, expert_id: str) -> None:
        assert expert_id not in self.moving, "one transition at a time"
        # No pin holds one that an operator put to sleep, and its host memory may be needed.
        is_dismissed = expert_id in self.kept_away or expert_id in self.removed
        assert not self.tenants[expert_id].pinned or is_dismissed or self.fate.get("shutdown")
        busy = [t for t in self.running.values() if self.base[t.expert_id] == expert_id]
        assert not busy, "a busy expert was sent away"
        assert self.where[expert_id] is not Residency.LOADING

    def grant(self, ticket: Ticket) -> bool:
        assert self.fate[ticket.id] == "waiting"
        base = self.base[ticket.expert_id]
        assert self.where[base] is Residency.AWAKE
        del self.waiting[ticket.id]
        if ticket.id in self.gone:
            self.fate[ticket.id] = "cancelled"
            return False
        self.fate[ticket.id] = "granted"
        self.running[ticket.id] = ticket
        on_it = [t for t in self.running.values() if self.base[t.expert_id] == base]
        assert len(on_it) <= self.tenants[base].max_in_flight
        return True

    def refuse(self, ticket: Ticket, error: CoeError) -> None:
        assert self.fate[ticket.id] == "waiting"
        self.fate[ticket.id] = "refused"
        del self.waiting[ticket.id]


class SwapMachine(RuleBasedStateMachine):
    """Any event at any time, and what must hold after each."""

    seen: ClassVar[Counter[str]] = Counter()
    """What happened over all runs, to see that the machine got everywhere."""

    @initialize(which=st.integers(0, len(SITES) - 1), seed=st.integers(0, 10**6))
    def start(self, which: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.n = 0
        self.world = World(SITES[which])
        self.scheduler = SwapScheduler(SITES[which], self.world, RULES)
        self.scheduler.on_start(self.now)

    @rule(
        n=st.integers(1, 3),
        priority=st.integers(-2, 2),
        patience=st.sampled_from([None, None, None, 3.0, 10.0, 30.0]),
    )
    def arrive(self, n: int, priority: int, patience: float | None) -> None:
        for _ in range(n):
            self.n += 1
            expert_id = self.random.choice(self._asleep() or self.world.known)
            deadline = None if patience is None else self.now + patience
            ticket = Ticket(str(self.n), expert_id, priority, deadline)
            self.world.fate[ticket.id] = "waiting"
            self.world.waiting[ticket.id] = ticket
            self.scheduler.on_arrival(self.now, ticket)

    def _asleep(self) -> list[str]:
        """Those that sleep, now and then: they are few, and wakes would be seldom."""
        if self.random.random() < 0.5:
            return []
        return sorted(id_ for id_, at in self.world.where.items() if at is Residency.ASLEEP)

    @rule(says_so=st.booleans())
    def caller_leaves(self, says_so: bool) -> None:
        waiting = sorted(self.world.waiting)
        if not waiting:
            return
        ticket = self.world.waiting[self.random.choice(waiting)]
        if not says_so:
            self.world.gone.add(ticket.id)
            return
        del self.world.waiting[ticket.id]
        self.world.fate[ticket.id] = "cancelled"
        self.scheduler.on_cancel(self.now, ticket)

    @rule(ok=st.booleans())
    def finish(self, ok: bool) -> None:
        if self.world.running:
            ticket = self.world.running.pop(self.random.choice(sorted(self.world.running)))
            self.scheduler.on_finish(self.now, ticket, ok)

    @rule(outcome=st.sampled_from(["ok", "ok", "ok", "ok", "fails", "held"]))
    def transition_ends(self, outcome: str) -> None:
        if self.world.moving:
            self.end(self.random.choice(sorted(self.world.moving)), outcome)

    def end(self, expert_id: str, outcome: str) -> None:
        world, kind = self.world, self.world.moving.pop(expert_id)
        tenant = world.tenants[expert_id]
        if kind == "load":
            world.host_held[expert_id] = 0.0
            world.where[expert_id] = Residency.AWAKE
            if outcome == "fails":
                self.world.reached(expert_id, Residency.DISK)
                error = StartupError(expert_id, "out of memory")
                self.scheduler.on_load_failed(self.now, expert_id, error)
            else:
                self.scheduler.on_loaded(self.now, expert_id)
        elif outcome == "fails":
            self.scheduler.on_leave_failed(self.now, expert_id)
        elif kind == "sleep":
            world.reached(expert_id, Residency.ASLEEP)
            residue = tenant.gib if outcome == "held" else tenant.residue_gib
            world.held[expert_id] = residue
            self.scheduler.on_slept(self.now, expert_id, residue)
        else:
            self.world.reached(expert_id, Residency.DISK)
            self.scheduler.on_evicted(self.now, expert_id)

    @rule()
    def crash(self) -> None:
        up = [
            expert_id
            for expert_id, where in self.world.where.items()
            if where in (Residency.AWAKE, Residency.ASLEEP)
        ]
        if not up or self.random.random() < 0.6:
            return
        expert_id = self.random.choice(sorted(up))
        for ticket in list(self.world.running.values()):
            if self.world.base[ticket.expert_id] == expert_id:
                del self.world.running[ticket.id]
        self.world.reached(expert_id, Residency.DISK)
        self.scheduler.on_crashed(self.now, expert_id)

    @rule(pause=st.floats(0.0, 10.0))
    def time_passes(self, pause: float) -> None:
        """Not past what the scheduler asked to be woken for."""
        until = self.now + pause
        due = self.scheduler.next_wakeup()
        if due is not None and due <= until:
            self.now = max(self.now, due)
            self.scheduler.on_tick(self.now)
        else:
            self.now = until

    @rule()
    def things_go_well(self) -> None:
        for _ in range(3):
            if self.world.moving:
                self.end(self.random.choice(sorted(self.world.moving)), "ok")
            self.finish(ok=True)

    @rule(to_disk=st.booleans())
    def dismiss(self, to_disk: bool) -> None:
        world = self.world
        expert_id = self.random.choice(sorted(world.where))
        if expert_id not in world.removed:
            world.kept_away.add(expert_id)
            if world.where[expert_id] is not Residency.DISK:
                if to_disk or world.where[expert_id] is not Residency.ASLEEP:
                    world.told[expert_id] = to_disk
                else:
                    world.told.pop(expert_id, None)
        self.seen["dismissals"] += 1
        self.scheduler.on_dismiss(self.now, expert_id, to_disk)

    @rule(gib=st.sampled_from([0.3, 0.7, 9.0]), sleeps=st.booleans(), pinned=st.booleans())
    def add(self, gib: float, sleeps: bool, pinned: bool) -> None:
        self.n += 1
        device = min(self.world.budget)
        new = Tenant(
            f"new{self.n}",
            gib,
            ((device,),) if pinned else (),
            asleep_gib=gib if sleeps else None,
            pinned=pinned,
        )
        if self.random.random() < 0.2:
            new = Tenant(new.expert_id, 0.0, base=self.random.choice(sorted(self.world.where)))
        if len(self.world.known) > 9:
            return
        try:
            self.world.join(new)
            self.scheduler.on_add(self.now, new)
        except (ConfigError, ShuttingDown):
            self.world.forget(new.expert_id)
            self.seen["not added"] += 1
        else:
            self.seen["added"] += 1

    @rule()
    def remove(self) -> None:
        world = self.world
        expert_id = self.random.choice(world.known)
        has_weights = world.base[expert_id] == expert_id
        adapters = [id_ for id_ in world.known if world.base[id_] == expert_id != id_]
        if self.random.random() < 0.6 or expert_id in world.removed or len(world.known) < 3:
            return
        if adapters:
            with pytest.raises(RequestError, match="remove those first"):
                self.scheduler.on_remove(self.now, expert_id)
            return
        self.seen["removed"] += 1
        world.told.pop(expert_id, None)
        if has_weights and world.where[expert_id] is not Residency.DISK:
            world.removed.add(expert_id)
        self.scheduler.on_remove(self.now, expert_id)
        if expert_id not in world.removed:
            world.forget(expert_id)
        assert not [t for t in world.waiting.values() if t.expert_id == expert_id]

    @rule()
    def shutdown(self) -> None:
        if self.random.random() < 0.01:
            self.world.fate["shutdown"] = "yes"
            self.scheduler.on_shutdown(self.now)
            assert not self.world.waiting

    @rule(name=st.sampled_from(["loaded", "slept", "evicted", "leave_failed", "finish"]))
    def event_out_of_place(self, name: str) -> None:
        """Nothing that was not asked for changes anything."""
        still = [
            expert_id
            for expert_id, where in self.world.where.items()
            if expert_id not in self.world.moving and where is not Residency.LEAVING
        ]
        before = self.snapshot()
        for expert_id in still:
            if name == "finish":
                self.scheduler.on_finish(self.now, Ticket("unknown", expert_id))
            else:
                getattr(self.scheduler, f"on_{name}")(self.now, expert_id)
        assert self.snapshot() == before

    def snapshot(self) -> object:
        lanes = [(lane.residency, lane.in_flight, len(lane.line)) for lane in self.scheduler.lanes]
        return lanes, self.scheduler.counts.arrived, self.scheduler.counts.finished

    @invariant()
    def memory_is_within_budget(self) -> None:
        self.seen["steps"] += 1
        world = self.world
        for device, budget in world.budget.items():
            held = sum(
                world.held[expert_id]
                for expert_id, devices in world.devices.items()
                if device in devices
            )
            assert held <= budget + 1e-6
        assert sum(world.host_held.values()) <= world.host_budget + 1e-6

    @invariant()
    def rivals_are_apart(self) -> None:
        up = (Residency.AWAKE, Residency.LOADING)
        if {"one", "other"} <= set(self.world.tenants):
            assert not all(self.world.where.get(e) in up for e in ("one", "other"))

    @invariant()
    def books_agree(self) -> None:
        world, counts = self.world, self.scheduler.counts
        fates = [fate for id_, fate in world.fate.items() if id_ != "shutdown"]
        assert counts.arrived == len(fates)
        assert counts.granted == fates.count("granted")
        assert counts.refused == fates.count("refused")
        assert counts.cancelled == fates.count("cancelled")
        assert self.scheduler.n_waiting == len(world.waiting)
        assert counts.granted == counts.finished + counts.lost + len(world.running)
        assert {lane.expert_id for lane in self.scheduler.lanes} == set(world.where)
        assert {id_ for id_ in world.where if self.scheduler.is_leaving(id_)} == (
            world.told.keys() | world.removed
        )
        for lane in self.scheduler.lanes:
            assert lane.residency is world.where[lane.expert_id]
            assert lane.held_gib == pytest.approx(world.held[lane.expert_id])
            assert lane.host_gib == pytest.approx(world.host_held[lane.expert_id])

    @invariant()
    def no_wakeup_is_lost(self) -> None:
        world = self.world
        is_owed = world.waiting or world.told or world.removed
        if is_owed and not world.moving and not world.running:
            due = self.scheduler.next_wakeup()
            assert due is not None

    def teardown(self) -> None:
        """Once nothing fails any more, everybody is answered, and within bounds."""
        if not hasattr(self, "world"):
            return
        self.seen.update(asdict(self.scheduler.counts))
        for _ in range(2000):
            if self.world.moving:
                self.now += 1.0
                self.end(min(self.world.moving), "ok")
            elif self.world.running:
                self.now += 1.0
                self.scheduler.on_finish(self.now, self.world.running.popitem()[1])
            elif self.world.waiting or self.world.told or self.world.removed:
                due = self.scheduler.next_wakeup()
                assert due is not None, "somebody waits and nothing will happen"
                self.now = max(self.now, due)
                self.scheduler.on_tick(self.now)
            else:
                break
        assert not self.world.waiting
        assert not self.world.told
        assert not self.world.removed


def _machine_settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


EVERYTHING = (
    "granted refused cancelled finished lost loads wakes prefetches sleeps evictions failures "
    "dismissals added removed"
)


def test_machine_survives_faults_at_every_transition() -> None:
    SwapMachine.seen.clear()
    run_state_machine_as_test(SwapMachine, settings=_machine_settings(150, 140))
    assert SwapMachine.seen["steps"] >= 10_000
    assert all(SwapMachine.seen[what] >= 10 for what in EVERYTHING.split()), SwapMachine.seen


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_machine_survives_a_hundred_thousand_steps() -> None:
    SwapMachine.seen.clear()
    run_state_machine_as_test(SwapMachine, settings=_machine_settings(900, 130))
    assert SwapMachine.seen["steps"] >= 100_000
