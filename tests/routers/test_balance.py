"""Balanced assignment of a batch, and the bias that balances live traffic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError, RoutingError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import FloatArray, IntArray
from coe.routers.balance import exact_assignment, rounded, sinkhorn_assignment, sinkhorn_plan
from coe.routers.balance_online import Balanced, BiasState, OnlineBias
from coe.routers.balance_sparse import sparse_plan, top_k_simplex
from coe.routers.policies import TopK

SCORES = np.array([[0.9, 0.1], [0.8, 0.7], [0.7, 0.65]])
POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "c")))


def _problem(seed: int, slack: int) -> tuple[FloatArray, IntArray]:
    """Random scores that favour later experts, and capacities with `slack` places to spare."""
    rng = np.random.default_rng(seed)
    n_queries, n_experts = int(rng.integers(1, 25)), int(rng.integers(1, 6))
    scores = rng.random((n_queries, n_experts)) + np.linspace(0.0, 0.5, n_experts)
    places = rng.multinomial(n_queries + slack, np.ones(n_experts) / n_experts)
    return scores, places


def _total(scores: FloatArray, assigned: IntArray) -> float:
    return float(scores[np.arange(len(scores)), assigned].sum())


def test_exact_assignment_by_hand() -> None:
    # Expert a has two places and all want it: the third loses least (0.05) by going to b.
    np.testing.assert_array_equal(exact_assignment(SCORES, np.array([2, 3])), [0, 0, 1])
    # With one place, the first query keeps it: 0.9 + 0.7 + 0.65 is the best of the three sums.
    np.testing.assert_array_equal(exact_assignment(SCORES, np.array([1, 2])), [0, 1, 1])


@pytest.mark.parametrize("assign", [exact_assignment, sinkhorn_assignment])
def test_zero_capacity_expert_gets_nothing(assign: type) -> None:
    np.testing.assert_array_equal(assign(SCORES, np.array([0, 3])), [1, 1, 1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 10))
def test_assignments_respect_capacity_and_exact_is_best(seed: int, slack: int) -> None:
    scores, capacities = _problem(seed, slack)
    exact = exact_assignment(scores, capacities)
    blurred = sinkhorn_assignment(scores, capacities)
    bare = rounded(scores, capacities, np.zeros(len(capacities)))
    for assigned in (exact, blurred, bare):
        assert assigned.shape == (len(scores),)
        assert (assigned >= 0).all()
        assert (np.bincount(assigned, minlength=len(capacities)) <= capacities).all()
    assert _total(scores, exact) >= _total(scores, blurred) - 1e-9
    assert _total(scores, exact) >= _total(scores, bare) - 1e-9
    assert _total(scores, blurred) >= 0.97 * _total(scores, exact)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_large_capacity_gives_each_query_its_best(seed: int) -> None:
    scores, capacities = _problem(seed, 0)
    roomy = np.full(len(capacities), len(scores))
    np.testing.assert_array_equal(exact_assignment(scores, roomy), scores.argmax(axis=1))
    np.testing.assert_array_equal(sinkhorn_assignment(scores, roomy), scores.argmax(axis=1))
    np.testing.assert_array_equal(sparse_plan(scores, roomy, 1).shares.argmax(1), scores.argmax(1))


def test_sinkhorn_plan_keeps_its_marginals() -> None:
    scores = np.random.default_rng(0).random((200, 5)) + np.linspace(0, 1, 5)
    capacities = np.array([60, 50, 40, 30, 50])
    plan = sinkhorn_plan(scores, capacities, epsilon=0.05, tolerance=1e-6)
    np.testing.assert_allclose(plan.shares.sum(axis=1), 1.0, atol=1e-12)
    assert plan.excess < 1e-5
    assert (plan.prices >= 0).all()
    # Only an expert whose places are all taken has a price.
    full = plan.shares.sum(axis=0) > capacities * (1 - 1e-3)
    np.testing.assert_array_equal(full, plan.prices > 1e-6)
    again = sinkhorn_plan(scores, capacities, epsilon=0.05, tolerance=1e-6)
    np.testing.assert_array_equal(plan.shares, again.shares)


def test_sinkhorn_plan_of_two_by_two_has_the_closed_form() -> None:
    # One place each: shares are p, 1-p with odds exp of half the gain of not swapping.
    scores, epsilon = np.array([[1.0, 0.2], [0.9, 0.4]]), 0.1
    odds = np.exp(((1.0 + 0.4) - (0.2 + 0.9)) / (2 * epsilon))
    plan = sinkhorn_plan(scores, np.array([1, 1]), epsilon, tolerance=1e-9)
    assert plan.shares[0, 0] == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert plan.shares[1, 1] == pytest.approx(odds / (1 + odds), abs=1e-6)


def test_smaller_epsilon_comes_closer_to_the_exact_value() -> None:
    scores = np.random.default_rng(1).random((120, 6))
    capacities = np.full(6, 20)
    values = [
        (sinkhorn_plan(scores, capacities, e, 1e-4, 20_000).shares * scores).sum()
        for e in (1.0, 0.1, 0.01)
    ]
    best = _total(scores, exact_assignment(scores, capacities))
    assert values[0] < values[1] < values[2] < best * (1 + 1e-3)
    assert values[2] > 0.97 * best


@pytest.mark.parametrize("assign", [exact_assignment, sinkhorn_assignment])
def test_too_little_capacity_says_how_much_is_missing(assign: type) -> None:
    with pytest.raises(RoutingError, match="3 queries for 2 places; raise the capacities by 1"):
        assign(SCORES, np.array([1, 1]))


def test_malformed_capacities_are_refused() -> None:
    with pytest.raises(ConfigError, match="one for each expert"):
        exact_assignment(SCORES, np.array([3, 3, 3]))
    with pytest.raises(ConfigError, match="whole numbers"):
        exact_assignment(SCORES, np.array([3, -1]))
    with pytest.raises(ConfigError, match="finite"):
        exact_assignment(np.array([[np.nan, 1.0]]), np.array([1, 1]))
    with pytest.raises(ConfigError, match="above 0"):
        sinkhorn_plan(SCORES, np.array([3, 3]), epsilon=0.0)


def test_an_empty_batch_is_assigned() -> None:
    empty = np.zeros((0, 2))
    assert exact_assignment(empty, np.array([1, 1])).shape == (0,)
    assert sinkhorn_assignment(empty, np.array([1, 1])).shape == (0,)


def test_top_k_simplex_by_hand() -> None:
    raw = np.array([[0.6, 0.5, 0.4], [3.0, 0.0, 0.0]])
    # The two largest, 0.6 and 0.5, less (0.6 + 0.5 - 1) / 2 = 0.05.
    np.testing.assert_allclose(top_k_simplex(raw, 2), [[0.55, 0.45, 0.0], [1.0, 0.0, 0.0]])
    # All three less (1.5 - 1) / 3 = 1/6.
    np.testing.assert_allclose(top_k_simplex(raw, 3)[0], [13 / 30, 10 / 30, 7 / 30])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(1, 3))
def test_sparse_plan_is_sparse_and_within_capacity(seed: int, slack: int, k: int) -> None:
    scores, capacities = _problem(seed, slack)
    k = min(k, scores.shape[1])
    plan = sparse_plan(scores, capacities, k)
    np.testing.assert_allclose(plan.shares.sum(axis=1), 1.0, atol=1e-9)
    assert (plan.shares >= 0).all()
    assert ((plan.shares > 0).sum(axis=1) <= k).all()
    loads = plan.shares.sum(axis=0)
    assert (loads <= capacities * (1 + 1e-3) + 1e-9).all()
    best = _total(scores, exact_assignment(scores, capacities))
    assert (plan.shares * scores).sum() <= best * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("seed", [1, 4, 5, 48, 58])
@pytest.mark.parametrize("k", [1, 2])
def test_sparse_plan_keeps_to_capacity_where_rows_are_tied(seed: int, k: int) -> None:
    # Few distinct scores and no place to spare: rows tie at their k-th place, so that the plan
    # read off the prices overflows and is repaired, for k = 2 by either way of repairing.
    scores = np.random.default_rng(seed).integers(0, 4, size=(12, 4)) / 4.0
    plan = sparse_plan(scores, np.full(4, 3), k)
    assert (plan.shares.sum(axis=0) <= 3 + 1e-6).all()
    assert ((plan.shares > 0).sum(axis=1) <= k).all()
    np.testing.assert_allclose(plan.shares.sum(axis=1), 1.0)
    best = _total(scores, exact_assignment(scores, np.full(4, 3)))
    assert (plan.shares * scores).sum() >= 0.9 * best


def test_sparse_plan_spreads_only_where_scores_are_close() -> None:
    plan = sparse_plan(np.array([[0.9, 0.1], [0.5, 0.49]]), np.array([2, 2]), 2, gamma=0.1)
    np.testing.assert_array_equal(plan.shares[0], [1.0, 0.0])
    np.testing.assert_allclose(plan.shares[1], [0.55, 0.45])


def test_sparse_plan_refuses_a_bad_k() -> None:
    with pytest.raises(ConfigError, match="1 to 2"):
        sparse_plan(SCORES, np.array([3, 3]), 3)


def test_bias_moves_one_step_against_the_load() -> None:
    rule = OnlineBias(step=0.01, window=9, limit=0.015)
    # The mean load is 3: the first had more, the second less, the third its part.
    moved = rule.moved(np.array([0.0, 0.01, 0.005]), np.array([5, 1, 3]))
    np.testing.assert_allclose(moved, [-0.01, 0.015, 0.005])


def test_bias_follows_unequal_targets() -> None:
    rule = OnlineBias(step=0.01, window=4, targets=(3.0, 1.0))
    np.testing.assert_array_equal(rule.moved(np.zeros(2), np.array([3, 1])), [0.0, 0.0])
    np.testing.assert_array_equal(rule.moved(np.zeros(2), np.array([2, 2])), [0.01, -0.01])
    with pytest.raises(ConfigError, match="2 targets for a pool of 3"):
        rule.start(3)


def test_bias_moves_only_when_the_window_is_full() -> None:
    rule = OnlineBias(step=0.1, window=2, limit=1.0)
    start = rule.start(2)
    once = rule.after(start, [0])
    assert once == BiasState((0.0, 0.0), (1, 0), 1)
    assert rule.after(once, [0]) == BiasState((-0.1, 0.1), (0, 0), 0)
    assert start == BiasState((0.0, 0.0), (0, 0), 0)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"window": 0}, {"limit": -1.0}])
def test_bias_refuses_senseless_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        OnlineBias(**options)  # type: ignore[arg-type]


def test_online_bias_evens_out_skewed_traffic_at_bounded_regret() -> None:
    scores = np.random.default_rng(2).normal([0.55, 0.5, 0.45], 0.05, size=(4000, 3))
    rule = OnlineBias(step=0.005, window=50, limit=0.06)
    policy = Balanced(TopK(1), rule)
    plain = np.bincount(scores.argmax(axis=1), minlength=3)
    chosen = np.array([POOL.ids.index(policy.choose(row, POOL)[0]) for row in scores])
    settled = np.bincount(chosen[2000:], minlength=3)
    # Imbalance as in the paper: the largest load over the mean one, less 1.
    assert plain.max() / plain.mean() - 1 > 0.9
    assert settled.max() / settled.mean() - 1 < 0.1
    regret = scores.max(axis=1) - scores[np.arange(len(scores)), chosen]
    assert regret.max() <= 2 * rule.limit
    assert regret[2000:].mean() < 0.03
    assert regret.mean() > 0


def test_balanced_policy_carries_on_from_a_state() -> None:
    rule = OnlineBias(step=0.1, window=1, limit=1.0)
    assert Balanced(TopK(1), rule).state is None
    policy = Balanced(TopK(1), rule)
    row = np.array([0.5, 0.45, 0.4])
    assert policy.choose(row, POOL) == ("a",)
    assert policy.state == BiasState((-0.1, 0.1, 0.1), (0, 0, 0), 0)
    assert Balanced(TopK(1), rule, policy.state).choose(row, POOL) == ("b",)
    assert policy.name == "balanced-top-1"
    np.testing.assert_array_equal(row, [0.5, 0.45, 0.4])
