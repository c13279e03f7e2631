"""Plans against a replay that trusts nothing, and against brute force."""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError, UnknownExpert
from coe.scheduling.plan import Action, Group, Plan, Stage, Start, stage_of
from coe.scheduling.planner import PlanRules, plan
from coe.scheduling.terms import Site, SwapCosts, Tenant

BRINGS = (Action.LOAD, Action.WAKE)


class Replay:
    """Executes a plan step by step and fails at the first that is impossible."""

    def __init__(self, site: Site, stages: Sequence[Stage], start: Start) -> None:
        self.site = site
        self.tenants = {t.expert_id: t for t in site.tenants}
        self.stages = stages
        self.awake = {(e, tuple(d)) for e, d in start.awake.items()}
        self.asleep = {(e, tuple(d)) for e, d in start.asleep.items()}
        self.clock: dict[str, float] = defaultdict(float)
        self.stage_end = [0.0] * (len(stages) + 1)
        self.served: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)

    def check(self, made: Plan) -> None:
        self.check_memory()
        for step in made.steps:
            tenant = self.tenants[step.expert_id]
            host = self.tenants[tenant.base or step.expert_id]
            copy = (host.expert_id, step.devices)
            assert step.devices in self.site.placements(host)
            for device in step.devices:
                assert step.start_s >= self.clock[device] - 1e-9
                self.clock[device] = step.end_s
            took_s = step.end_s - step.start_s
            costs = host.costs
            if step.action is Action.SERVE:
                assert copy in self.awake
                assert step.requests[1] > step.requests[0]
                self.served[step.stage, step.expert_id].append(step.requests)
                self.stage_end[step.stage + 1] = max(self.stage_end[step.stage + 1], step.end_s)
            elif step.action is Action.LOAD:
                assert copy not in self.awake | self.asleep
                assert took_s == pytest.approx(costs.load_s)
                self.awake.add(copy)
            elif step.action is Action.WAKE:
                assert took_s == pytest.approx(costs.wake_s)
                self.asleep.remove(copy)
                self.awake.add(copy)
            elif step.action is Action.SLEEP:
                assert took_s == pytest.approx(costs.sleep_s)
                assert host.asleep_gib is not None
                self.awake.remove(copy)
                self.asleep.add(copy)
            else:
                assert took_s == pytest.approx(costs.evict_s)
                assert not host.pinned
                (self.awake if copy in self.awake else self.asleep).remove(copy)
            self.check_memory()
        for step in made.steps:
            if step.action is Action.SERVE:
                assert step.start_s >= max(self.stage_end[: step.stage + 1]) - 1e-9
        self.check_served()

    def check_memory(self) -> None:
        """In the order of the plan, which is the order of every device."""
        used: dict[str, float] = defaultdict(float)
        labels: list[str] = []
        for expert_id in {expert_id for expert_id, _ in self.awake}:
            labels += self.tenants[expert_id].apart
        for expert_id, devices in self.awake:
            for device in devices:
                used[device] += self.tenants[expert_id].gib
        for expert_id, devices in self.asleep:
            for device in devices:
                used[device] += self.tenants[expert_id].residue_gib
        for device, gib in used.items():
            assert gib <= self.site.devices[device] + 1e-6
        assert len(labels) == len(set(labels))
        host = sum(self.tenants[e].asleep_gib or 0.0 for e, _ in self.asleep)
        assert host <= self.site.host_gib + 1e-6

    def check_served(self) -> None:
        for number, stage in enumerate(self.stages):
            for group in stage.groups:
                ranges = sorted(self.served.pop((number, group.expert_id)))
                assert ranges[0][0] == 0
                assert ranges[-1][1] == group.n_requests
                assert all(a[1] == b[0] for a, b in pairwise(ranges))
        assert not self.served


def least_load_s(site: Site, stages: Sequence[Stage], awake: Sequence[str], room: float) -> float:
    """Dijkstra over (stage, who is served, who is resident): any order, any eviction."""
    tenants = {t.expert_id: t for t in site.tenants}
    needs = [frozenset(g.expert_id for g in stage.groups) for stage in stages]
    State = tuple[int, frozenset[str], frozenset[str]]
    first: State = (0, frozenset(), frozenset(awake))
    queue: list[tuple[float, int, State]] = [(0.0, 0, first)]
    seen: set[State] = set()
    pushed = 0
    while True:
        cost, _, state = heapq.heappop(queue)
        if state in seen:
            continue
        seen.add(state)
        number, served, resident = state
        if number == len(stages):
            return cost
        served = served | (resident & needs[number])
        following: list[tuple[float, State]] = []
        if served == needs[number]:
            following.append((0.0, (number + 1, frozenset(), resident)))
        else:
            used = sum(tenants[e].gib for e in resident)
            for e, tenant in tenants.items():
                if e in resident:
                    following.append((0.0, (number, served, resident - {e})))
                elif used + tenant.gib <= room + 1e-9:
                    following.append((tenant.costs.load_s, (number, served, resident | {e})))
        for further, after in following:
            pushed += 1
            heapq.heappush(queue, (cost + further, pushed, after))


def small_instance(seed: int) -> tuple[Site, list[Stage], Start, float]:
    """At most seven experts of unequal sizes on one device, some resident."""
    rng = random.Random(seed)
    n = rng.randint(2, 7)
    sizes = [rng.randint(1, 8) for _ in range(n)]
    room = float(rng.randint(max(sizes), max(max(sizes), int(0.8 * sum(sizes)))))
    tenants = tuple(
        Tenant(f"e{i}", float(gib), costs=SwapCosts(load_s=float(rng.randint(1, 9))))
        for i, gib in enumerate(sizes)
    )
    stages = []
    for _ in range(rng.randint(1, 4 if n < 6 else 3)):
        chosen = rng.sample(range(n), rng.randint(1, n))
        stages.append(Stage(tuple(Group(f"e{i}", rng.randint(1, 9), 2.0) for i in chosen)))
    awake: list[int] = []
    for i in rng.sample(range(n), n):
        if rng.random() < 0.4 and sum(sizes[j] for j in awake) + sizes[i] <= room:
            awake.append(i)
    start = Start({f"e{i}": ("gpu",) for i in awake})
    return Site({"gpu": room}, tenants), stages, start, room


def check_against_brute_force(seed: int) -> None:
    site, stages, start, room = small_instance(seed)
    made = plan(site, stages, start)
    Replay(site, stages, start).check(made)
    assert made.load_s == pytest.approx(least_load_s(site, stages, list(start.awake), room))
    assert made.is_exact


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_plan_equals_brute_force(seed: int) -> None:
    check_against_brute_force(seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_plan_equals_brute_force_a_thousand_times() -> None:
    for seed in range(1000):
        check_against_brute_force(seed)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_one_stage_loads_everyone_once_who_is_not_there(seed: int) -> None:
    site, stages, start, _ = small_instance(seed)
    needed = {group.expert_id for group in stages[0].groups}
    made = plan(site, stages[:1], start)
    assert made.n_loads == len(needed - set(start.awake)) == made.bounds.n_loads
    assert made.load_gap == 0.0


def random_site(rng: random.Random) -> Site:
    """Several devices; experts that span them, sleep, share a base, are pinned or kept apart."""
    n_devices = rng.randint(1, 3)
    devices = {f"gpu{d}": float(rng.randint(14, 24)) for d in range(n_devices)}
    tenants = []
    for i in range(rng.randint(2, 8)):
        placements: tuple[tuple[str, ...], ...] = ()
        if n_devices > 1 and rng.random() < 0.25:
            placements = (tuple(rng.sample(list(devices), 2)),)
        elif rng.random() < 0.3:
            placements = ((rng.choice(list(devices)),),)
        can_sleep = rng.random() < 0.5
        tenants.append(
            Tenant(
                f"e{i}",
                float(rng.randint(1, 9)),
                placements,
                asleep_gib=float(rng.randint(1, 9)) if can_sleep else None,
                residue_gib=rng.choice([0.0, 0.5]) if can_sleep else 0.0,
                costs=SwapCosts(load_s=float(rng.randint(2, 30))),
                apart=frozenset({"one"}) if rng.random() < 0.25 else frozenset(),
            )
        )
    if rng.random() < 0.4:
        tenants.append(Tenant("pin", 4.0, ((rng.choice(list(devices)),),), pinned=True))
    tenants.append(Tenant("adapter", 0.0, base="e0"))
    return Site(devices, tuple(tenants), host_gib=float(rng.choice([0, 8, 100])))


def random_stages(rng: random.Random, site: Site) -> list[Stage]:
    ids = [tenant.expert_id for tenant in site.tenants]
    return [
        Stage(
            tuple(
                Group(e, rng.randint(1, 400), rng.uniform(1, 200))
                for e in rng.sample(ids, rng.randint(1, len(ids)))
            )
        )
        for _ in range(rng.randint(1, 5))
    ]


def random_start(rng: random.Random, site: Site) -> Start:
    free = dict(site.devices)
    awake: dict[str, tuple[str, ...]] = {}
    asleep: dict[str, tuple[str, ...]] = {}
    for tenant in site.hosts:
        if tenant.pinned:
            for device in tenant.placements[0]:
                free[device] -= tenant.gib
    labels: set[str] = set()
    host_gib = site.host_gib
    for tenant in site.hosts:
        home = rng.choice(site.placements(tenant))
        if (
            rng.random() < 0.3
            and all(free[d] >= tenant.gib + 1 for d in home)
            and not (tenant.pinned or labels & tenant.apart)
        ):
            awake[tenant.expert_id] = home
            labels |= tenant.apart
            for device in home:
                free[device] -= tenant.gib
        elif (
            tenant.asleep_gib is not None
            and rng.random() < 0.3
            and tenant.asleep_gib <= host_gib
            and all(free[d] >= 1 for d in home)
        ):
            asleep[tenant.expert_id] = home
            host_gib -= tenant.asleep_gib
            for device in home:
                free[device] -= tenant.residue_gib
    return Start(awake, asleep)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_plans_of_all_kinds_can_be_executed_and_keep_their_bounds(seed: int) -> None:
    rng = random.Random(seed)
    try:
        site = random_site(rng)
    except ConfigError:
        return
    stages, start = random_stages(rng, site), random_start(rng, site)
    made = plan(site, stages, start)
    Replay(site, stages, start).check(made)
    assert made.load_s >= made.bounds.load_s - 1e-6
    assert made.seconds >= made.bounds.seconds - 1e-6
    assert made.n_loads >= made.bounds.n_loads


def test_equal_experts_and_stages_give_the_snake() -> None:
    tenants = tuple(Tenant(f"e{i:02}", 1.0) for i in range(16))
    stage = Stage(tuple(Group(t.expert_id, 5, 1.0) for t in tenants))
    for slots, rounds, loads in ((2, 4, 58), (4, 10, 124), (1, 4, 61)):
        made = plan(Site({"gpu": float(slots)}, tenants), [stage] * rounds)
        assert made.n_loads == made.bounds.n_loads == loads


def test_costly_experts_stay_rather_than_many() -> None:
    tenants = (
        Tenant("dear", 2.0, costs=SwapCosts(load_s=30.0)),
        Tenant("cheap", 1.0, costs=SwapCosts(load_s=1.0)),
        Tenant("cheaper", 1.0, costs=SwapCosts(load_s=1.0)),
        Tenant("aggregator", 1.0, costs=SwapCosts(load_s=1.0)),
    )
    experts = Stage(tuple(Group(t.expert_id, 1, 1.0) for t in tenants[:3]))
    aggregator = Stage((Group("aggregator", 1, 1.0),))
    made = plan(Site({"gpu": 3.0}, tenants), [experts, aggregator, experts])
    assert made.load_s == 30.0 + 2.0 + 1.0 + 2.0
    assert made.is_exact


def test_sleepers_wake_instead_of_loading_again() -> None:
    costs = SwapCosts(load_s=10.0, wake_s=1.0, sleep_s=1.0, evict_s=0.0)
    tenants = tuple(Tenant(f"e{i}", 1.0, asleep_gib=1.0, costs=costs) for i in range(3))
    stage = Stage(tuple(Group(t.expert_id, 1, 1.0) for t in tenants))
    awake = plan(Site({"gpu": 1.0}, tenants, host_gib=3.0), [stage, stage])
    assert awake.load_s == 3 * 10.0 + 2 * 1.0
    short = plan(Site({"gpu": 1.0}, tenants, host_gib=1.0), [stage, stage])
    assert short.load_s == 3 * 10.0 + 1.0 + 10.0


def test_adapters_come_with_their_base() -> None:
    tenants = (Tenant("base", 1.0), Tenant("a", 0.0, base="base"), Tenant("b", 0.0, base="base"))
    stage = Stage((Group("a", 3, 1.0), Group("b", 4, 1.0), Group("base", 1, 1.0)))
    made = plan(Site({"gpu": 1.0}, tenants), [stage, stage])
    assert made.n_loads == 1
    served = [step.expert_id for step in made.steps if step.action is Action.SERVE]
    assert sorted(served) == ["a", "a", "b", "b", "base", "base"]


def test_pinned_experts_load_once_and_stay() -> None:
    tenants = (
        Tenant("pin", 1.0, (("gpu",),), pinned=True),
        *(Tenant(f"e{i}", 1.0) for i in range(3)),
    )
    stage = Stage(tuple(Group(t.expert_id, 1, 1.0) for t in tenants))
    made = plan(Site({"gpu": 2.0}, tenants), [stage] * 3)
    loads = [step.expert_id for step in made.steps if step.action in BRINGS]
    assert loads.count("pin") == 1
    assert len(loads) == 1 + 3 + 2 + 2 == made.bounds.n_loads


def test_several_devices_share_work_and_cut_what_is_long() -> None:
    tenants = tuple(Tenant(f"e{i}", 1.0, costs=SwapCosts(load_s=2.0)) for i in range(3))
    site = Site({"left": 1.0, "right": 1.0}, tenants)
    stages = [
        Stage((Group("e0", 100, 100.0), Group("e1", 100, 100.0))),
        Stage((Group("e2", 400, 400.0),)),
    ]
    cut = plan(site, stages)
    assert cut.seconds == pytest.approx(cut.bounds.seconds, rel=0.02)
    shares = [s.requests for s in cut.steps if s.expert_id == "e2" and s.action is Action.SERVE]
    assert sorted(shares) == [(0, 200), (200, 400)]
    whole = plan(site, stages, rules=PlanRules(split_ratio=math.inf))
    assert whole.seconds > 500.0
    assert whole.seconds_gap < 0.02


def test_integer_programs_make_nothing_worse() -> None:
    pytest.importorskip("scipy")
    rng = random.Random(4)
    tenants = tuple(
        Tenant(f"e{i:02}", float(rng.randint(2, 9)), costs=SwapCosts(load_s=rng.uniform(1, 9)))
        for i in range(20)
    )
    site = Site({"gpu": 24.0}, tenants)
    stages = [Stage(tuple(Group(t.expert_id, 9, 5.0) for t in tenants))] * 3
    quick, slow = plan(site, stages), plan(site, stages, rules=PlanRules(exact_s=20.0))
    assert quick.bounds.load_s <= slow.bounds.load_s + 1e-6
    assert slow.load_s <= quick.load_s + 1e-6
    assert slow.is_exact
    assert quick.load_gap < 0.02


def test_stage_counts_requests_of_all_queries() -> None:
    tenants = (Tenant("a", 1.0, service_s=2.0, max_in_flight=4), Tenant("b", 1.0))
    stage = stage_of([("a", "b"), ("a", "a"), *([("a",)] * 5)], Site({"gpu": 2.0}, tenants), "s")
    assert stage.groups == (Group("a", 8, 4.0), Group("b", 1, 1.0))
    with pytest.raises(UnknownExpert, match="no expert 'c'"):
        stage_of([("c",)], Site({"gpu": 2.0}, tenants))


def test_empty_batches_need_nothing() -> None:
    site = Site({"gpu": 2.0}, (Tenant("a", 1.0),))
    assert plan(site, []).steps == ()
    assert plan(site, [Stage(())]).seconds == 0.0


def test_wrong_input_says_what_to_change() -> None:
    site = Site({"gpu": 2.0}, (Tenant("a", 1.0), Tenant("b", 2.0)))
    stage = Stage((Group("a", 1, 1.0),))
    with pytest.raises(ConfigError, match="join them"):
        Stage((Group("a", 1, 1.0), Group("a", 2, 1.0)), "first")
    with pytest.raises(ConfigError, match="at least one request"):
        Stage((Group("a", 0, 1.0),))
    with pytest.raises(UnknownExpert):
        plan(site, [Stage((Group("z", 1, 1.0),))])
    with pytest.raises(ConfigError, match="none of its placements"):
        plan(site, [stage], Start({"a": ("cpu",)}))
    with pytest.raises(ConfigError, match="do not fit"):
        plan(site, [stage], Start({"a": ("gpu",), "b": ("gpu",)}))


def test_rows_have_a_head_and_a_line_a_step() -> None:
    site = Site({"gpu": 2.0}, (Tenant("a", 1.0),))
    made = plan(site, [Stage((Group("a", 7, 1.5),))])
    assert [row[2:5] for row in made.rows()] == [
        ("step", "expert", "requests"),
        ("load", "a", ""),
        ("serve", "a", "7"),
    ]
