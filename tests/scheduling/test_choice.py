"""Claims and their worth, by hand."""

from __future__ import annotations

import math

import pytest

from coe.scheduling import Residency, SwapCosts, Tenant, Ticket
from coe.scheduling.choice import Round, disturbance, impatience, outweighs_at, round_of
from coe.scheduling.lane import Lane
from coe.scheduling.measures import Mean


def lane(expert_id: str, arrivals_s: tuple[float, ...] = (), awake: bool = False) -> Lane:
    costs = SwapCosts(load_s=2.0, wake_s=1.0, sleep_s=0.0, evict_s=0.5)
    made = Lane(Tenant(expert_id, 1.0, costs=costs, max_in_flight=2), 120.0)
    for i, at_s in enumerate(arrivals_s):
        made.line.push(Ticket(f"{expert_id}{i}", expert_id), at_s)
    if awake:
        made.residency = Residency.AWAKE
    return made


def test_round_is_every_visit_over_the_experts_there_is_room_for() -> None:
    """Visits of 2 + 0.5 + 1 s for one waiting ticket and of 2 + 0.5 + 2 s for four."""
    busy = lane("busy", awake=True)
    busy.granted["g"] = 0.0
    lanes = [busy, lane("idle", awake=True), lane("one", (0.0,)), lane("four", (0.0,) * 4)]
    found = round_of(lanes)
    assert found.length_s == pytest.approx((3.5 + 3.5 + 4.5) / 2)
    assert found.visit_s == pytest.approx((3.5 + 3.5 + 4.5) / 3)
    assert found.waiting == pytest.approx(5.0 / 2)


def test_round_joined_by_an_expert_is_the_round_with_it() -> None:
    lanes = [lane("a", (0.0,)), lane("b", awake=True)]
    late = lane("late")
    before = round_of([*lanes, late])
    late.line.push(Ticket("l", "late"), 1.0)
    assert before.joined_by(late) == round_of([*lanes, late])


def test_round_of_nobody_still_has_a_length() -> None:
    assert round_of([lane("a"), lane("b", awake=True)]).length_s > 0.0


def test_impatience_doubles_after_a_round_and_a_third_and_then_grows_steeply() -> None:
    round_ = Round(10.0)
    assert impatience(lane("a"), 99.0, round_) == 1.0
    assert impatience(lane("a", (0.0,)), 0.0, round_) == 1.0
    assert impatience(lane("a", (0.0,)), 13.0, round_) == pytest.approx(2.0)
    assert impatience(lane("a", (0.0,)), 26.0, round_) == pytest.approx(17.0)


@pytest.mark.parametrize("cost", [0.5, 5.0, 50.0, 1e4, 1e9])
@pytest.mark.parametrize("opened_s", [0.0, 3.0])
def test_waiting_outweighs_a_cost_when_it_says_so_and_not_long_before(
    cost: float, opened_s: float
) -> None:
    target, victim = lane("t", (0.0, 1.0)), lane("v", awake=True)
    victim.opened_s = opened_s
    round_ = Round(4.0)

    def waited(at_s: float) -> float:
        since = min(target.line.waited_s(at_s), 2.0 * (at_s - opened_s))
        return since * min(4.0, impatience(target, at_s, round_))

    at_s = outweighs_at(target, victim, 3.0, cost, round_)
    while (later := outweighs_at(target, victim, at_s, cost, round_)) > at_s + 0.001:
        at_s = later
    assert at_s == 3.0 or waited(at_s + 0.001) >= cost
    assert at_s == 3.0 or waited(at_s - 0.1) < cost


def test_waiting_never_outweighs_what_nobody_waits_for_or_what_costs_everything() -> None:
    victim, round_ = lane("v", awake=True), Round(4.0)
    assert outweighs_at(lane("t"), victim, 1.0, 1.0, round_) == math.inf
    assert outweighs_at(lane("t", (0.0,)), victim, 1.0, math.inf, round_) == math.inf


def test_disturbance_counts_those_who_wait_for_others() -> None:
    """Nine wait beside the target; each for the half second and two that the swap adds."""
    target, victim = lane("t", (0.0,)), lane("v", awake=True)
    alone = disturbance(victim, target, 1.0, Round(4.0, waiting=1.0))
    among = disturbance(victim, target, 1.0, Round(4.0, waiting=10.0))
    assert among - alone == pytest.approx(9.0 * 2.5)


def test_mean_forgets_a_wrong_guess_within_a_few_values() -> None:
    mean = Mean(10.0, share=0.1)
    for _ in range(4):
        mean.add(1.0)
    assert mean.value == pytest.approx((10.0 + 4.0) / 5.0)
    for _ in range(200):
        mean.add(1.0)
    mean.add(2.0)
    assert mean.value == pytest.approx(1.1), "later ones count by their share"
