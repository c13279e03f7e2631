"""The age bound that a pool can hold, by hand and against the simulator."""

from __future__ import annotations

import pytest

from coe.scheduling.feasibility import bound_warning, longest_round_s
from coe.scheduling.scheduler import SwapScheduler
from coe.scheduling.service_model import ServiceModel
from coe.scheduling.simulator import Simulator
from coe.scheduling.terms import Site, SwapCosts, SwapRules, Tenant
from coe.scheduling.traces import Load, poisson

COSTS = SwapCosts(load_s=5.0, sleep_s=2.0, evict_s=1.0)


def _site(n_experts: int, gib: float = 1.0, **more: object) -> Site:
    tenants = (
        Tenant(f"e{i}", 1.0, costs=COSTS, service_s=4.0, **more)  # type: ignore[arg-type]
        for i in range(n_experts)
    )
    return Site({"gpu0": gib}, tuple(tenants))


@pytest.mark.parametrize(
    ("site", "rules", "round_s"),
    [
        # (E + 1) (quantum + service + leave + load)
        (_site(3), SwapRules(quantum_s=60.0), 4 * (60 + 4 + 1 + 5)),
        (_site(3), SwapRules(quantum_s=10.0), 4 * (10 * 5 + 4 + 1 + 5)),
        (_site(3, asleep_gib=1.0), SwapRules(quantum_s=60.0), 4 * (60 + 4 + 2 + 5)),
        (_site(3, gib=3.0), SwapRules(), 0.0),
        (_site(2, gib=2.0, apart=frozenset({"one"})), SwapRules(), 3 * (50 + 4 + 1 + 5)),
    ],
)
def test_the_longest_round_is_that_of_the_design(
    site: Site, rules: SwapRules, round_s: float
) -> None:
    assert longest_round_s(site, rules) == pytest.approx(round_s)


def test_pinned_experts_take_room_and_no_turns() -> None:
    pinned = Tenant("pin", 1.0, (("gpu0",),), pinned=True, costs=SwapCosts(load_s=1000.0))
    site = Site({"gpu0": 2.0}, (pinned, *_site(2).tenants))
    assert longest_round_s(site, SwapRules()) == pytest.approx(3 * (50 + 4 + 1 + 5))


def test_a_bound_that_cannot_be_held_is_told_in_one_line_with_the_remedy() -> None:
    said = bound_warning(_site(3), SwapRules(max_wait_s=200.0, quantum_s=60.0))
    assert said is not None
    assert "max_wait_s of 200 s" in said
    assert "all 3 experts" in said
    assert "up to 280 s" in said
    assert "raise scheduling.max_wait_s" in said
    assert "\n" not in said


@pytest.mark.parametrize("max_wait_s", [280.0, 1000.0])
def test_a_bound_that_can_be_held_is_not_spoken_of(max_wait_s: float) -> None:
    assert bound_warning(_site(3), SwapRules(max_wait_s=max_wait_s, quantum_s=60.0)) is None


def test_no_overdue_request_waits_longer_than_a_round() -> None:
    site, rules = _site(4), SwapRules(max_wait_s=20.0, quantum_s=5.0)
    model = ServiceModel(max_batch=8)
    trace = poisson([f"e{i}" for i in range(4)], [0.4, 0.3, 0.2, 0.1], Load(400, 1.0, 1.0), 0)
    run = Simulator(site, model, lambda site, effects: SwapScheduler(site, effects, rules)).run(
        trace
    )
    waits = [r.started_s - r.arrival.at_s for r in run.records if r.started_s is not None]
    assert len(waits) == 400
    assert max(waits) > rules.max_wait_s
    assert max(waits) <= rules.max_wait_s + longest_round_s(site, rules)
