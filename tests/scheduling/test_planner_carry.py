"""What to carry: tables, integer program and search against one another."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.scheduling.carry import Carry, CarryProblem
from coe.scheduling.carry_exact import exact_carry
from coe.scheduling.carry_program import program_carry
from coe.scheduling.carry_search import (
    best_carry,
    load_bound_s,
    load_count_bound,
    searched_carry,
)


def random_problem(seed: int) -> CarryProblem:
    """Some experts on one device or two, of unequal sizes and costs."""
    rng = np.random.default_rng(seed)
    n, n_devices, n_stages = rng.integers(2, 9), rng.integers(1, 3), rng.integers(1, 6)
    gib = rng.integers(1, 7, (n, n_devices)).astype(float)
    if n_devices > 1:
        absent = rng.integers(0, 3, n)
        gib[absent == 0, 0] = 0.0
        gib[absent == 1, 1] = 0.0
    room = gib.max(axis=0) + rng.integers(0, 8, n_devices)
    first = rng.integers(1, 10, n).astype(float)
    again = np.minimum(first, rng.integers(1, 10, n))
    needs = tuple(int(rng.integers(1, 1 << n)) for _ in range(n_stages))
    start = 0
    for expert in rng.permutation(n):
        members = [e for e in range(n) if (start | 1 << expert) >> e & 1]
        if rng.random() < 0.4 and (gib[members].sum(axis=0) <= room).all():
            start |= 1 << int(expert)
    return CarryProblem(needs, gib, room, first.tolist(), again.tolist(), start)


def check(problem: CarryProblem, found: Carry) -> None:
    """The sets can be carried, cost what is claimed and no less than the bound."""
    following = [*found.carried[1:], 0]
    assert found.carried[0] & ~problem.start == 0
    assert all(
        problem.is_possible(stage, found.carried[stage], following[stage])
        for stage in range(len(problem.needs))
    )
    assert problem.cost_s(found.carried) == pytest.approx(found.cost_s)
    assert found.cost_s >= found.bound_s - 1e-6


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_tables_and_program_agree(seed: int) -> None:
    pytest.importorskip("scipy")
    problem = random_problem(seed)
    by_tables, by_program = exact_carry(problem), program_carry(problem)
    assert by_tables is not None
    assert by_program is not None
    check(problem, by_tables)
    check(problem, by_program)
    assert by_tables.cost_s == pytest.approx(by_program.cost_s, abs=1e-5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_search_is_near_and_bounds_hold(seed: int) -> None:
    problem = random_problem(seed)
    exact, searched = exact_carry(problem), searched_carry(problem)
    assert exact is not None
    check(problem, searched)
    assert load_bound_s(problem) <= exact.cost_s + 1e-6
    assert load_count_bound(problem) <= problem.n_loads(exact.carried)
    assert searched.cost_s <= 1.2 * exact.cost_s + 1e-9


def test_search_is_within_three_percent_where_tables_are_too_small() -> None:
    rng = random.Random(0)
    gib = np.array([[rng.choice([4.0, 8.0, 16.0, 24.0])] for _ in range(24)])
    everyone = (1 << 24) - 1
    needs = (everyone, 1 << 3, everyone & 0xAAAAAA, 1 << 3, everyone)
    loads = [float(row[0]) for row in gib]
    problem = CarryProblem(needs, gib, np.array([64.0]), loads, loads)
    assert exact_carry(problem) is None
    found = best_carry(problem)
    check(problem, found)
    assert found.cost_s <= 1.03 * found.bound_s


def test_tables_give_up_beyond_their_effort() -> None:
    problem = random_problem(1)
    assert exact_carry(problem, effort=0) is None or len(problem.needs) == 1
    assert best_carry(problem, effort=0).cost_s >= load_bound_s(problem) - 1e-9


def test_nobody_is_carried_past_one_who_needs_all_the_room() -> None:
    # Experts 0 and 1 fit together; expert 2 fills the device in between.
    problem = CarryProblem(
        (0b011, 0b100, 0b011),
        np.array([[1.0], [1.0], [2.0]]),
        np.array([2.0]),
        [1.0] * 3,
        [1.0] * 3,
    )
    found = exact_carry(problem)
    assert found is not None
    assert found.carried == (0, 0, 0)
    assert found.cost_s == 5.0
