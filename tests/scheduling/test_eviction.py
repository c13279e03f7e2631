from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from coe.scheduling import LookAhead, Resident


def resident(
    expert_id: str, gib: float, next_use: float = math.inf, cost: float = 1.0, device: str = "g"
) -> Resident:
    return Resident(expert_id, {device: gib}, next_use, cost)


def test_victims_are_none_where_there_is_room() -> None:
    assert LookAhead().victims({"g": 0.0}, [resident("a", 1.0)]) == ()


def test_victims_are_those_nobody_waits_for() -> None:
    residents = [resident("waited", 1.0, next_use=0.0, cost=0.0), resident("idle", 1.0, cost=9.0)]
    assert LookAhead().victims({"g": 1.0}, residents) == ("idle",)


def test_victims_are_cheapest_per_useful_gib() -> None:
    """The large one costs more, but less for what it frees."""
    residents = [resident("small", 1.0, cost=2.0), resident("large", 4.0, cost=4.0)]
    assert LookAhead().victims({"g": 4.0}, residents) == ("large",)
    assert LookAhead().victims({"g": 1.0}, residents) == ("small",)


def test_victims_leave_nobody_out_needlessly() -> None:
    """Taking the cheap one first makes the dear one needed, which alone is enough."""
    residents = [resident("cheap", 1.0, cost=0.1), resident("dear", 3.0, cost=3.0)]
    assert LookAhead().victims({"g": 3.0}, residents) == ("dear",)


def test_victims_free_every_device_of_a_spanning_expert() -> None:
    residents = [resident("a", 1.0, device="g0"), resident("b", 1.0, device="g1")]
    assert LookAhead().victims({"g0": 1.0, "g1": 1.0}, residents) == ("a", "b")


def test_victims_cannot_be_found_where_all_together_are_too_small() -> None:
    assert LookAhead().victims({"g": 3.0}, [resident("a", 1.0), resident("b", 1.0)]) is None


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.integers(0, 9)), max_size=6),
    st.integers(0, 12),
)
def test_victims_are_enough_and_minimal(sizes: list[tuple[int, bool, int]], need: int) -> None:
    residents = [
        resident(str(i), float(gib), math.inf if idle else 0.0, float(cost))
        for i, (gib, idle, cost) in enumerate(sizes)
    ]
    chosen = LookAhead().victims({"g": float(need)}, residents)
    if chosen is None:
        assert sum(gib for gib, _, _ in sizes) < need
        return
    freed = [residents[int(id_)].frees["g"] for id_ in chosen]
    assert sum(freed) >= need
    assert all(sum(freed) - one < need for one in freed), "one of them could have stayed"
    idle_gib = sum(r.frees["g"] for r in residents if r.next_use == math.inf)
    if idle_gib >= need:
        assert all(residents[int(id_)].next_use == math.inf for id_ in chosen)


def test_victims_are_asked_speculatively_and_nothing_is_remembered() -> None:
    residents = [resident(str(i), 1.0 + i, cost=float(i)) for i in range(4)]
    policy = LookAhead()
    asked = [policy.victims({"g": float(n)}, residents) for n in range(8)]
    assert asked == [policy.victims({"g": float(n)}, residents) for n in range(8)]
