"""The mapping program against enumeration, and its frontier."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.mapping import (
    Mapping,
    MappingProblem,
    SizeBudget,
    evaluated,
    frontier,
    solve_mapping,
)

RATES = np.array([[0.9, 0.6, 0.5], [0.2, 0.7, 0.6]])
WORKED = MappingProblem(RATES, np.array([0.5, 0.5]), np.array([8.0, 5.0, 2.0]))


def enumerated(problem: MappingProblem) -> list[Mapping]:
    """Every mapping that fits."""
    n_categories, n_experts = problem.rates.shape
    every = (evaluated(problem, m) for m in product(range(n_experts), repeat=n_categories))
    return [
        mapping
        for mapping in every
        if mapping.total_size <= problem.total_budget + 1e-9
        and mapping.average_active <= problem.average_budget + 1e-9
    ]


def random_problem(seed: int, total_share: float, average_share: float) -> MappingProblem:
    rng = np.random.default_rng(seed)
    n_categories, n_experts = rng.integers(1, 5), rng.integers(1, 5)
    # Rates of few values and whole sizes, so that ties of quality do occur.
    rates = rng.integers(0, 5, (n_categories, n_experts)) / 4
    sizes = rng.integers(1, 10, n_experts).astype(float)
    active = rng.integers(1, 6, n_experts).astype(float)
    total = sizes.min() + total_share * (sizes.sum() - sizes.min())
    average = active.min() + average_share * (active.max() - active.min())
    shares = rng.dirichlet(np.ones(n_categories))
    return MappingProblem(rates, shares, sizes, total, active, average)


@given(seed=st.integers(0, 10_000), total_share=st.floats(0, 1), average_share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_program_equals_enumeration(seed: int, total_share: float, average_share: float) -> None:
    problem = random_problem(seed, total_share, average_share)
    fitting = enumerated(problem)
    if not fitting:
        with pytest.raises(ConfigError, match="raise the budget"):
            solve_mapping(problem)
        return
    solved = solve_mapping(problem)
    best = max(mapping.quality for mapping in fitting)
    assert solved.quality == pytest.approx(best, abs=1e-6)
    smallest = min(m.total_size for m in fitting if m.quality >= best - 1e-9)
    assert solved.total_size == pytest.approx(smallest)
    assert solved.total_size <= problem.total_budget + 1e-6
    assert solved.average_active <= problem.average_budget + 1e-6


def test_worked_example() -> None:
    """Without limits both specialists, (.9 + .7) / 2; within 10 the first and third, (.9 + .6) / 2.

    Within 9 the first alone brings .55, the second .65, the last two as much as the second.
    """
    assert solve_mapping(WORKED).expert_of == (0, 1)
    assert solve_mapping(WORKED).quality == pytest.approx(0.8)
    assert solve_mapping(replace(WORKED, total_budget=10.0)).expert_of == (0, 2)
    assert solve_mapping(replace(WORKED, total_budget=9.0)).expert_of == (1, 1)
    assert solve_mapping(replace(WORKED, total_budget=4.0)).expert_of == (2, 2)


def test_average_budget_limits_what_a_query_costs() -> None:
    """Within 5 a query: (8 + 2) / 2 fits with .75, the two specialists' (8 + 5) / 2 does not."""
    solved = solve_mapping(replace(WORKED, average_budget=5.0))
    assert solved.expert_of == (0, 2)
    assert solved.average_active == pytest.approx(5.0)


def test_equal_quality_goes_to_the_smaller_expert() -> None:
    problem = MappingProblem(np.array([[0.7, 0.7]]), np.ones(1), np.array([9.0, 3.0]))
    assert solve_mapping(problem).expert_of == (1,)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_frontier_never_falls_as_the_budget_grows(seed: int) -> None:
    problem = replace(random_problem(seed, 1.0, 1.0), average_budget=math.inf)
    budgets = np.linspace(problem.sizes.min(), problem.sizes.sum(), 5)
    qualities = [mapping.quality for mapping in frontier(problem, budgets.tolist())]
    assert all(after >= before - 1e-9 for before, after in pairwise(qualities))
    assert qualities[-1] == pytest.approx(float(problem.shares @ problem.rates.max(axis=1)))


def test_budget_names_the_expert_whose_size_is_unknown() -> None:
    pool = ExpertPool(
        (Expert("a", ScriptedSpec(), params_active_b=7.0), Expert("b", ScriptedSpec()))
    )
    with pytest.raises(ConfigError, match="not known of b"):
        SizeBudget.of_parameters(pool, total=10.0)
    with pytest.raises(ConfigError, match="size is known of b"):
        SizeBudget({"a": 7.0}, total=10.0).problem(RATES[:, :2], np.ones(2) / 2, ("a", "b"))
    known = SizeBudget.of_parameters(pool.subset(["a"]), average=7.0)
    assert known.problem(RATES[:, :1], np.ones(2) / 2, ("a",)).sizes.tolist() == [7.0]
