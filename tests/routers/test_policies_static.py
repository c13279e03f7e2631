"""Static policies: worked numbers, limits and what holds for any scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coe.errors import ConfigError, RoutingError
from coe.experts import Expert, ExpertPool, Footprint, Price, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.policies import (
    EntropySwitch,
    GuardedScorer,
    NullExperts,
    PerGroup,
    PolicySpec,
    Priced,
    SessionAffinity,
    TopK,
    TopP,
    WithinLimit,
    costs_of,
    fit_multiplier,
    fit_theta,
    policy_of,
    tsallis_entropy,
)
from coe.routing import FloatArray, Policy
from coe.types import Query


def _expert(id_: str, params: float, usd: float | None, load_s: float = 1.0) -> Expert:
    price = None if usd is None else Price(usd_per_mtok_out=usd)
    footprint = Footprint(load_s=load_s)
    return Expert(id_, ScriptedSpec(), params_active_b=params, price=price, footprint=footprint)


POOL = ExpertPool(
    (_expert("a", 70, 4.0), _expert("b", 8, 2.0), _expert("c", 4, 1.0), _expert("d", 7, None)),
    fallback_id="b",
)
PRICED = POOL.subset(["a", "b", "c"])
HALVES = np.log([0.5, 0.25, 0.15, 0.1])

EVERY = (
    TopK(2),
    TopP(0.6),
    EntropySwitch(0.3, 0.8),
    NullExperts(3, 0.5),
    Priced(TopK(2), "params_active_b", 0.01),
    WithinLimit(TopK(3), "params_active_b", 20),
    SessionAffinity(TopK(2), 0.2, "d"),
    PerGroup(3, {"a": "x", "b": "x"}),
)
SCORES = arrays(np.float64, 4, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize("policy", EVERY, ids=lambda policy: policy.name)
@given(scores=SCORES)
def test_choice_is_never_empty_and_names_nobody_twice(policy: Policy, scores: FloatArray) -> None:
    chosen = policy.choose(scores, POOL)
    assert chosen
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(POOL.ids)
    assert policy.choose(scores, POOL) == chosen


@pytest.mark.parametrize("policy", EVERY[:5], ids=lambda policy: policy.name)
def test_equal_scores_go_to_the_earlier_expert(policy: Policy) -> None:
    chosen = policy.choose(np.full(4, 0.5), POOL)
    first = "c" if isinstance(policy, Priced) else "a"
    assert chosen[0] == first


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, "a"), (0.4, "a"), (0.6, "ab"), (0.8, "abc"), (0.95, "abcd")]
)
def test_top_p_keeps_the_expert_that_crosses(p: float, expected: str) -> None:
    assert TopP(p).choose(HALVES, POOL) == tuple(expected)


def test_top_p_must_exceed_p_and_not_meet_it() -> None:
    quarters = np.full(4, 0.25)
    assert TopP(0.5, shares="proportions").choose(quarters, POOL) == ("a", "b", "c")
    assert TopP(1.0, shares="proportions").choose(quarters, POOL) == tuple("abcd")


def test_top_p_options_limit_and_sharpen() -> None:
    assert TopP(0.95, k_max=2).choose(HALVES, POOL) == ("a", "b")
    assert TopP(0.6, temperature=0.5).choose(HALVES, POOL) == ("a",)
    np.testing.assert_allclose(TopP(shares="proportions").distribution(np.zeros(4)), 0.25)
    np.testing.assert_allclose(
        TopP(shares="proportions").distribution(np.array([3.0, 1.0, -1.0, 0.0])), [0.75, 0.25, 0, 0]
    )


@given(scores=SCORES, low=st.floats(0, 1), high=st.floats(0, 1))
def test_top_p_recruits_no_fewer_for_a_higher_p(
    scores: FloatArray, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    fewer = TopP(low).choose(scores, POOL)
    assert TopP(high).choose(scores, POOL)[: len(fewer)] == fewer


def test_tsallis_entropy_of_known_shares() -> None:
    assert tsallis_entropy(np.array([0.5, 0.5]), 2.0) == pytest.approx(0.5)
    assert tsallis_entropy(np.full(4, 0.25), 2.0) == pytest.approx(0.75)
    assert tsallis_entropy(np.array([1.0, 0.0]), 1.1) == 0.0
    shannon = tsallis_entropy(np.array([0.5, 0.25, 0.25]), 1.0)
    assert shannon == pytest.approx(1.5 * np.log(2))
    assert tsallis_entropy(np.array([0.5, 0.25, 0.25]), 1.0001) == pytest.approx(shannon, abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([9.0, 0, 0, 0], "a"), ([2.0, 1.5, 0, 0], "ab"), ([0.1, 0, 0, 0], "abcd")],
)
def test_entropy_switch_has_three_branches(scores: Sequence[float], expected: str) -> None:
    switch = EntropySwitch(0.1, 0.95, TopP(0.6))
    assert switch.choose(np.array(scores), POOL) == tuple(expected)


def test_entropy_switch_in_doubt_falls_back_or_recruits_k_max() -> None:
    even = np.zeros(4)
    assert EntropySwitch(0.1, 0.9, falls_back=True).choose(even, POOL) == ("b",)
    assert EntropySwitch(0.1, 0.9, TopP(k_max=3)).choose(even, POOL) == ("a", "b", "c")
    alone = POOL.subset(["c"])
    assert EntropySwitch(0.1, 0.9, falls_back=True).choose(np.zeros(1), alone) == ("c",)


@pytest.mark.parametrize(
    ("theta", "m", "expected"),
    [(0.5, None, "ab"), (0.95, None, "a"), (0.0, None, "abc"), (0.95, 1, "ab"), (0.95, 0, "abc")],
)
def test_null_experts_take_places_of_real_ones(theta: float, m: int | None, expected: str) -> None:
    scores = np.array([0.9, 0.5, 0.4, 0.3])
    assert NullExperts(3, theta, m).choose(scores, POOL) == tuple(expected)


def _ranked_with_nulls(scores: Sequence[float], k: int, theta: float, m: int) -> list[str]:
    """The definition, spelled out: rank everything, take k, drop the null ones, keep the best."""
    everything = [(-s, i, id_) for i, (s, id_) in enumerate(zip(scores, POOL.ids, strict=True))]
    everything += [(-theta, len(scores) + i, "null") for i in range(m)]
    real = [id_ for _, _, id_ in sorted(everything)[:k] if id_ != "null"]
    return real or [min(everything[: len(scores)])[2]]


@given(scores=SCORES, theta=st.sampled_from([-0.5, 0.25, 0.6]), k=st.integers(1, 4), data=st.data())
def test_null_experts_are_as_defined(
    scores: FloatArray, theta: float, k: int, data: st.DataObject
) -> None:
    m = data.draw(st.integers(0, k))
    expected = _ranked_with_nulls(scores.tolist(), k, theta, m)
    assert list(NullExperts(k, theta, m).choose(scores, POOL)) == expected


@given(
    scores=arrays(np.float64, (7, 4), elements=st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8])),
    mean_calls=st.floats(1, 4),
    k=st.integers(1, 4),
)
def test_fitted_theta_calls_no_more_than_asked_and_is_the_lowest(
    scores: FloatArray, mean_calls: float, k: int
) -> None:
    theta = fit_theta(scores, k, mean_calls)

    def called(theta: float) -> float:
        return float(np.mean([len(NullExperts(k, theta).choose(row, POOL)) for row in scores]))

    assert called(theta) <= mean_calls + 1e-9
    below = [s for s in np.unique(scores) if s < theta]
    assert not below or called(below[-1]) > mean_calls or called(below[-1]) == called(theta)


def test_theta_for_fewer_calls_than_forced_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0.5 calls a query is below 1"):
        fit_theta(np.zeros((2, 4)), 3, 0.5)
    with pytest.raises(ConfigError, match="below 2"):
        fit_theta(np.zeros((2, 4)), 3, 1.5, m=1)


def test_costs_come_from_the_pool_and_unknown_ones_are_named() -> None:
    np.testing.assert_array_equal(costs_of(POOL, "params_active_b"), [70, 8, 4, 7])
    with pytest.raises(ConfigError, match="expert 'd' is not known; set its price"):
        costs_of(POOL, "usd_per_mtok")
    with pytest.raises(ConfigError, match=r"footprint\.watts"):
        costs_of(POOL, "watts")
    with pytest.raises(ConfigError, match="did you mean 'usd_per_mtok'"):
        costs_of(POOL, "usd_per_mtoken")


def test_limit_leaves_out_what_does_not_fit_alone_or_together() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert WithinLimit(TopK(1), "params_active_b", 10).choose(scores, POOL) == ("b",)
    assert WithinLimit(TopK(3), "params_active_b", 12).choose(scores, POOL) == ("b", "c")
    # Waiting together costs the longest wait, not the sum.
    assert WithinLimit(TopK(2), "load_s", 1).choose(scores, POOL) == ("a", "b")


def test_limit_that_nobody_meets_names_the_cheapest() -> None:
    policy = WithinLimit(TopK(1), "params_active_b", 3)
    with pytest.raises(RoutingError, match=r"at most 3; the cheapest, 'c', has 4"):
        policy.choose(np.zeros(4), POOL)


def test_price_on_cost_changes_the_choice() -> None:
    scores = np.array([0.9, 0.5, 0.45])
    assert Priced(TopK(1), "params_active_b", 0.0).choose(scores, PRICED) == ("a",)
    assert Priced(TopK(1), "params_active_b", 0.0072).choose(scores, PRICED) == ("b",)
    assert Priced(TopK(1), "params_active_b", 0.02).choose(scores, PRICED) == ("c",)


@given(
    scores=arrays(np.float64, (9, 3), elements=st.floats(0, 1)),
    budget=st.floats(4.5, 70),
)
def test_fitted_multiplier_keeps_the_budget_and_is_the_lowest(
    scores: FloatArray, budget: float
) -> None:
    costs = costs_of(PRICED, "params_active_b")
    multiplier = fit_multiplier(scores, costs, budget)

    def spent(multiplier: float) -> float:
        policy = Priced(TopK(1), "params_active_b", multiplier)
        return float(
            np.mean([costs[PRICED.ids.index(policy.choose(row, PRICED)[0])] for row in scores])
        )

    assert spent(multiplier) <= budget
    # Below 1e-12 the difference is that of rounding.
    assert multiplier < 1e-12 or spent(multiplier * (1 - 1e-6)) > budget - 1e-9


def test_budget_below_the_cheapest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget of 3 is below 4"):
        fit_multiplier(np.zeros((2, 3)), np.array([70.0, 8.0, 4.0]), 3)


def test_session_stays_unless_switching_pays() -> None:
    stays = SessionAffinity(TopK(2), 0.1).for_session("c")
    assert stays.choose(np.array([0.5, 0.45, 0.4, 0.0]), POOL) == ("c", "a")
    assert stays.choose(np.array([0.51, 0.45, 0.4, 0.0]), POOL) == ("a", "b")
    assert stays.choose(np.array([0.5, 0.45, 0.45, 0.0]), POOL) == ("c", "a")
    assert stays.for_session(None).choose(np.array([0.5, 0.45, 0.4, 0]), POOL) == ("a", "b")
    assert stays.for_session("gone").choose(np.array([0.5, 0.45, 0.4, 0]), POOL) == ("a", "b")


def test_session_expert_already_recruited_comes_first() -> None:
    policy = SessionAffinity(TopK(2), 0.2, previous="b")
    assert policy.choose(np.array([0.5, 0.4, 0.3, 0.2]), POOL) == ("b", "a")


def test_groups_share_out_the_places() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    groups = {"a": "gpu0", "b": "gpu0", "c": "gpu0"}
    assert PerGroup(3, groups).choose(scores, POOL) == ("a", "d")
    assert PerGroup(3, groups, 2).choose(scores, POOL) == ("a", "b", "d")
    assert PerGroup(3, {"a": "gpu0", "b": "gpu0"}).choose(scores, POOL) == ("a", "c", "d")
    assert PerGroup(1, groups, 2).choose(scores, POOL) == ("a",)


class _Fixed:
    name = "fixed"
    expert_ids = ("x", "y")

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile([0.0, 1.0], (len(queries), 1))


def _table(x: Sequence[float], y: Sequence[float]) -> OutcomeTable:
    queries = tuple(Query(str(i), str(i)) for i in range(len(x)))
    return OutcomeTable(queries, ("x", "y"), np.array([x, y], dtype=float).T)


def test_router_no_better_than_best_single_is_not_used() -> None:
    table = _table([1, 1, 1, 0] * 5, [0, 0, 1, 1] * 5)
    guarded = GuardedScorer(_Fixed(), np.tile([0.0, 1.0], (20, 1)), table)
    assert not guarded.is_kept
    np.testing.assert_array_equal(guarded.score([Query("q")]), [[0.75, 0.5]])
    (reason,) = guarded.explain(Query("q"))
    assert "does not surely beat x" in reason
    assert guarded.gain == pytest.approx(-0.25)


def test_router_that_helps_is_kept() -> None:
    table = _table([1, 1, 1, 0] * 5, [0, 0, 0, 1] * 5)
    held_out = table.scores.copy()
    guarded = GuardedScorer(_Fixed(), held_out, table)
    assert guarded.is_kept
    np.testing.assert_array_equal(guarded.score([Query("q")]), [[0.0, 1.0]])
    assert "beats x alone (+25.0%)" in guarded.explain(Query("q"))[-1]


def test_options_of_a_named_policy_reach_it() -> None:
    assert policy_of(PolicySpec("top-p", 1, {"p": 0.6, "k_max": 2})) == TopP(0.6, 2)
    assert policy_of(PolicySpec("null-experts", 3, {"theta": 0.5})) == NullExperts(3, 0.5)
    wrapped = policy_of(
        PolicySpec("top-2", 1, {"cost": "gib", "limit": 8, "multiplier": 0.1, "switch_cost": 0.05})
    )
    inner = WithinLimit(Priced(TopK(2), "gib", 0.1), "gib", 8.0)
    assert wrapped == SessionAffinity(inner, 0.05)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("top-p", {"tempreature": 1.0}, "did you mean 'temperature'"),
        ("top-p", {"p": "high"}, "p is 'high'; give a float"),
        ("top-p", {"p": 2}, "p is 2; give 0 to 1"),
        ("top-p", {"shares": "even"}, "none of softmax, proportions"),
        ("null-experts", {}, "needs the option 'theta'"),
        ("top-k", {"limit": 3}, "limit needs a cost"),
        ("top-k", {"cost": "price", "limit": 3}, "unknown cost"),
        ("entropy-switch", {"low": 0.9, "high": 0.1}, "above high"),
    ],
)
def test_wrong_options_are_refused(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_of(PolicySpec(kind, 1, options))
