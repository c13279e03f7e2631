"""Placements against enumeration, and moves that pay."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError, UnknownExpert
from coe.scheduling.expert_trace import trace_of
from coe.scheduling.placement import Demand, Home, Ledger, Placement
from coe.scheduling.placing import PlaceRules, place
from coe.scheduling.rebalancing import rebalance
from coe.scheduling.terms import Site, SwapCosts, Tenant

QUICK = PlaceRules(exact_s=0.0)


def random_case(seed: int) -> tuple[Site, Demand]:
    rng = random.Random(seed)
    n_devices = rng.randint(1, 2)
    tenants = tuple(
        Tenant(
            f"e{i}",
            float(rng.randint(1, 6)),
            (("gpu0", "gpu1"),) if n_devices == 2 and rng.random() < 0.15 else (),
            costs=SwapCosts(load_s=float(rng.randint(1, 20))),
            service_s=rng.uniform(1, 5),
            apart=frozenset({"one"}) if rng.random() < 0.15 else frozenset(),
        )
        for i in range(rng.randint(1, 5))
    )
    largest = max(t.gib for t in tenants)
    site = Site({f"gpu{d}": largest + rng.randint(0, 8) for d in range(n_devices)}, tenants)
    ids = [t.expert_id for t in tenants]
    meetings = {pair: rng.uniform(0, 30) for pair in combinations(ids, 2) if rng.random() < 0.7}
    return site, Demand({e: rng.uniform(0, 200) for e in ids}, meetings)


def cost_s(site: Site, demand: Demand, homes: dict[str, Home]) -> float | None:
    """The objective as the module states it, written out; None if it does not fit."""
    tenants = {t.expert_id: t for t in site.tenants}
    busy = []
    swapping = 0.0
    for device, budget in site.devices.items():
        here = [e for e, h in homes.items() if device in h.devices]
        swapped = [e for e in here if not homes[e].is_kept]
        kept = sum(tenants[e].gib for e in here if homes[e].is_kept)
        if kept + max([tenants[e].gib for e in swapped], default=0.0) > budget:
            return None
        service = sum(demand.per_hour[e] * tenants[e].service_s / 8 for e in here)
        swaps = sum(
            n * (tenants[a].costs.load_s + tenants[b].costs.load_s) / 2
            for (a, b), n in demand.turns.items()
            if a in swapped and b in swapped
        )
        busy.append(service + swaps)
        swapping += swaps
    return max(busy) + swapping


def enumerated_s(site: Site, demand: Demand) -> float:
    ids = [t.expert_id for t in site.tenants]
    labelled = [t.expert_id for t in site.tenants if t.apart]
    able = [
        [
            Home(devices, is_kept)
            for devices in site.placements(t)
            for is_kept in (True, False)
            if not (is_kept and t.apart and len(labelled) > 1)
        ]
        for t in site.tenants
    ]
    costs = (cost_s(site, demand, dict(zip(ids, way, strict=True))) for way in product(*able))
    return min(cost for cost in costs if cost is not None)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_program_equals_enumeration(seed: int) -> None:
    pytest.importorskip("scipy")
    site, demand = random_case(seed)
    placed = place(site, demand)
    assert placed.objective_s == pytest.approx(enumerated_s(site, demand), abs=1e-4)
    assert placed.gap == pytest.approx(0.0, abs=1e-6)
    assert cost_s(site, demand, dict(placed.homes)) == pytest.approx(placed.objective_s)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_search_fits_and_keeps_its_bound(seed: int) -> None:
    site, demand = random_case(seed)
    placed, best_s = place(site, demand, QUICK), enumerated_s(site, demand)
    assert cost_s(site, demand, dict(placed.homes)) == pytest.approx(placed.objective_s)
    assert placed.bound_s <= best_s + 1e-6
    assert placed.objective_s >= best_s - 1e-6


def test_search_finds_nearly_all_small_optima() -> None:
    cases = [random_case(seed) for seed in range(60)]
    missed = [
        case
        for case in cases
        if place(*case, QUICK).objective_s > enumerated_s(*case) * (1 + 1e-9) + 1e-9
    ]
    assert len(missed) <= 2


def pairs_site(room: float = 2.0, n_devices: int = 2) -> Site:
    tenants = tuple(Tenant(f"e{i}", 1.0, costs=SwapCosts(load_s=10.0)) for i in range(6))
    return Site({f"gpu{d}": room for d in range(n_devices)}, tenants)


def test_those_recruited_together_do_not_share_swapped_room() -> None:
    even = dict.fromkeys([f"e{i}" for i in range(6)], 80.0)
    placed = place(pairs_site(), Demand(even, {("e0", "e1"): 9.0, ("e2", "e3"): 9.0}), QUICK)
    assert placed.swap_s == 0.0
    for one, other in (("e0", "e1"), ("e2", "e3")):
        a, b = placed.homes[one], placed.homes[other]
        assert a.is_kept or b.is_kept or a.devices != b.devices


def test_spare_memory_takes_replicas_of_the_hottest() -> None:
    tenants = tuple(Tenant(f"e{i}", 1.0) for i in range(3))
    site = Site({"left": 3.0, "right": 3.0}, tenants)
    demand = Demand({"e0": 800.0, "e1": 80.0, "e2": 80.0})
    alone = place(site, demand, QUICK)
    shared = place(site, demand, PlaceRules(exact_s=0.0, max_replicas=1))
    assert max(alone.busy_s.values()) == pytest.approx(100.0)
    assert list(shared.replicas) == ["e0"]
    assert max(shared.busy_s.values()) < 75.0
    assert shared.gap == 0.0


def test_demand_counts_a_trace_by_the_hour() -> None:
    trace = trace_of([(["a", "b"], 0.0, None), (["b"], 900.0, None), (["b", "a"], 1800.0, 5.0)])
    demand = Demand.of(trace)
    assert demand.per_hour == {"a": 4.0, "b": 6.0}
    assert demand.turns == {("a", "b"): 4.0}


@given(queries=st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=2, max_size=30))
def test_turns_equal_a_room_for_one_simulated(queries: list[set[str]]) -> None:
    trace = trace_of([(sorted(q), float(i), None) for i, q in enumerate(queries)])
    for (one, other), n in trace.turns().items():
        loads = []
        for there in (one, other):  # Whoever is there before the first query.
            count = 0
            for asked in (q & {one, other} for q in queries):
                if len(asked) == 2 or (asked and there not in asked):
                    there = other if there == one else one
                    count += 1
            loads.append(count)
        assert n == min(loads)
    together = {frozenset(pair): n for pair, n in trace.recruited_together().items()}
    expected = sum({"a", "b"} <= query for query in queries)
    assert together.get(frozenset("ab"), 0) == expected


def test_adapters_count_for_their_base() -> None:
    site = Site({"gpu": 2.0}, (Tenant("base", 1.0), Tenant("lora", 0.0, base="base")))
    placed = place(site, Demand({"base": 8.0, "lora": 80.0}, {("base", "lora"): 5.0}), QUICK)
    assert list(placed.homes) == ["base"]
    assert placed.busy_s == {"gpu": pytest.approx(11.0)}


def test_pinned_experts_keep_their_home() -> None:
    tenants = (Tenant("pin", 2.0, (("left",),), pinned=True), Tenant("e", 2.0))
    site = Site({"left": 3.0, "right": 3.0}, tenants)
    placed = place(site, Demand({"pin": 1.0, "e": 500.0}), QUICK)
    assert placed.homes == {"pin": Home(("left",), True), "e": Home(("right",), True)}


def test_wrong_demand_is_told() -> None:
    with pytest.raises(UnknownExpert, match="did you mean 'e0'"):
        place(pairs_site(), Demand({"e00": 1.0}))


def test_no_room_is_told() -> None:
    tenants = (
        Tenant("pin", 2.0, (("left",),), pinned=True),
        Tenant("wide", 2.0, (("left", "right"), ("right", "left"))),
    )
    with pytest.raises(ConfigError, match="budget"):
        place(Site({"left": 3.0, "right": 3.0}, tenants), Demand({}), QUICK)


@given(seed=st.integers(0, 10**6), horizon_h=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_every_move_pays_within_the_horizon(seed: int, horizon_h: float) -> None:
    site, demand = random_case(seed)
    placed = place(site, demand, QUICK)
    rng = random.Random(seed)
    later = Demand({e: n * rng.uniform(0, 4) for e, n in demand.per_hour.items()}, demand.turns)
    homes = dict(placed.homes)
    before_s = cost_s(site, later, homes)
    for change in rebalance(site, placed, later, horizon_h):
        assert change.pays_back_h < horizon_h
        for move in change.moves:
            assert homes[move.expert_id] == move.before
            homes[move.expert_id] = move.after
        after_s = cost_s(site, later, homes)
        assert before_s is not None
        assert after_s is not None
        assert before_s - after_s == pytest.approx(change.gain_s_per_hour)
        before_s = after_s


def test_moves_that_cost_more_than_they_gain_are_left() -> None:
    site = pairs_site(room=6.0)
    homes = {f"e{i}": Home(("gpu0",), True) for i in range(6)}
    ledger = Ledger(site, Demand({"e0": 8.0, "e1": 8.0}))
    placed: Placement = ledger.placed(homes, ledger.bound_s())
    demand = Demand({"e0": 800.0, "e1": 800.0})
    made = rebalance(site, placed, demand, horizon_h=1.0)
    assert [m.expert_id for c in made for m in c.moves] in (["e0"], ["e1"])
    assert made[0].gain_s_per_hour == pytest.approx(100.0)
    assert made[0].load_s == 10.0
    assert rebalance(site, placed, demand, horizon_h=0.05) == ()


def test_rows_have_a_head_and_a_line_a_device() -> None:
    rows = place(pairs_site(), Demand({"e0": 8.0}), QUICK).rows()
    assert rows[0] == ("device", "kept", "swapped", "busy s/h")
    assert [row[0] for row in rows[1:]] == ["gpu0", "gpu1"]
