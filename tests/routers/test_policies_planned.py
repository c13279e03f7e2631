"""Planned votes: by hand, what a plan learns, and that it travels with the learned vote."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coe.errors import ConfigError, PoolMismatch
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import IndependentVotes, PolicySpec, policy_of, replay, verdict_scores
from coe.routers.policies.budgets import costs_of
from coe.routers.policies.elections import Elections, SetsHeard
from coe.routers.policies.planned_vote import N_SHARED, Plan, PlannedVote, Situation
from coe.routers.policies.planning import Planning
from coe.routers.policies.replay import by_model
from coe.routers.policies.restricted import AdaptiveAmong
from coe.routers.policies.tuning import fitted_vote, tuned
from coe.routing import AdaptivePolicy, FloatArray, Heard
from coe.types import Query

COST = "cost=params_active_b"
PARAMS = {"a": 1.0, "b": 2.0, "c": 10.0}
POOL = ExpertPool(tuple(Expert(i, ScriptedSpec(), params_active_b=p) for i, p in PARAMS.items()))
COSTS = np.array(list(PARAMS.values()))
N_FEATURES = N_SHARED + 2
CONSTANT, LEAD, SCORE, FIRST = 0, 1, 6, 12


def _plan(**weights: dict[int, float]) -> Plan:
    """Of the weights given for some features of some experts; all others are 0."""
    table = np.zeros((3, N_FEATURES))
    for expert_id, given_ in weights.items():
        for feature, weight in given_.items():
            table[POOL.ids.index(expert_id), feature] = weight
    return Plan(POOL.ids, table, 0.01)


BY_HAND = _plan(
    a={SCORE: 1.0, FIRST: 0.2}, b={CONSTANT: 0.1}, c={CONSTANT: 0.85, LEAD: -0.1, N_SHARED: 0.05}
)


def _policy(plan: Plan = BY_HAND, n_options: int = 2, k_max: int = 5) -> PlannedVote:
    return PlannedVote("params_active_b", plan, IndependentVotes(n_options), k_max)


def test_planned_vote_by_hand() -> None:
    """At 0.01 a billion a costs 0.01, b 0.02 and c 0.1.

    Before any answer a is worth 0.6 + 0.2 - 0.01 = 0.79, b 0.08 and c 0.85 - 0.1 = 0.75. Of two
    options, a's answer alone is right with 0.6; c, with 0.05 for a heard before, is then worth
    0.85 - 0.06 + 0.05 - 0.1 = 0.74, which is more, and b 0.08.
    """
    scores = np.array([0.6, 0.1, 0.9])
    assert _policy().next(scores, POOL, ()) == "a"
    assert _policy().next(scores, POOL, [Heard("a", "A")]) == "c"
    # a and c agree: 0.93 that they are right, and b stays at 0.08.
    agreed = [Heard("a", "A"), Heard("c", "A")]
    assert _policy().next(scores, POOL, agreed) is None
    # With 0.8 expected of a, c is worth 0.85 - 0.08 + 0.05 - 0.1 = 0.72, less than stopping.
    assert _policy().next(np.array([0.8, 0.1, 0.9]), POOL, [Heard("a", "A")]) is None
    # Nothing read is worth nothing, so that even 0.08 is better.
    assert _policy().next(scores, POOL, [Heard("a", None), Heard("c", None)]) == "b"
    assert _policy(k_max=2).next(scores, POOL, [Heard("a", None), Heard("c", None)]) is None


def test_situation_by_hand() -> None:
    scores = np.array([[0.6, 0.3, 0.9]])
    heard = np.array([True, False, False])
    told = Situation(scores, scores - 0.1, heard, np.array([0.5]), np.array([0.2]))
    assert told.unheard == [1, 2]
    of_answers = [1, 0.5, 0.2, 0.25, 0.1, 0]
    of_c = [0.9, 0.45, 0.81, 0.2, 0.1, 0]
    np.testing.assert_allclose(told.features(2)[0], [*of_answers, *of_c, 0, 1, 0.5, 1, 0])
    last = Situation(scores, scores, np.array([True, False, True]), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(
        last.features(1)[0], [1, 0, 0, 0, 0, 1, 0.3, 0, 0.09, 0, 0, 1, 0, 2, 0, 1, 1]
    )


SCORES = arrays(np.float64, 3, elements=st.sampled_from([0.2, 0.4, 0.6, 0.8]))
WEIGHTS = arrays(np.float64, (3, N_FEATURES), elements=st.sampled_from([-0.2, 0.0, 0.1, 0.3]))
ANSWERS = st.lists(st.sampled_from([None, "A", "B", "C"]), min_size=3, max_size=3)


@given(scores=SCORES, weights=WEIGHTS, answers=ANSWERS, k_max=st.integers(1, 4))
def test_asks_somebody_nobody_twice_and_stops(
    scores: FloatArray, weights: FloatArray, answers: list[str | None], k_max: int
) -> None:
    policy = _policy(Plan(POOL.ids, weights, 0.02), k_max=k_max)
    heard: tuple[Heard, ...] = ()
    while (expert_id := policy.next(scores, POOL, heard)) is not None:
        assert expert_id not in {each.expert_id for each in heard}
        heard = (*heard, Heard(expert_id, answers[POOL.ids.index(expert_id)]))
    assert 1 <= len(heard) <= min(k_max, 3)


@given(scores=SCORES, weights=WEIGHTS, order=st.permutations(range(3)))
def test_the_pool_may_be_in_any_order(
    scores: FloatArray, weights: FloatArray, order: list[int]
) -> None:
    policy = _policy(Plan(POOL.ids, weights, 0.02))
    turned = ExpertPool(tuple(POOL.experts[i] for i in order))
    heard = [Heard("b", "B")]
    assert policy.next(scores[order], turned, heard) == policy.next(scores, POOL, heard)
    assert policy.next(scores[order], turned, ()) == policy.next(scores, POOL, ())


def test_another_pool_is_refused() -> None:
    with pytest.raises(PoolMismatch, match="fit it again"):
        _policy().next(np.array([0.5, 0.5]), POOL.subset(["a", "b"]), ())


def _table(n: int = 600, seed: int = 0) -> tuple[OutcomeTable, FloatArray]:
    """Nine options: a and b are right on 65 % of the queries, c on 85 %; nobody knows on which.

    Wrong answers seldom agree, so that a and b agreeing are nearly sure to be right.
    """
    rng = np.random.default_rng(seed)
    rates = np.array([0.65, 0.65, 0.85])
    right = rng.integers(0, 9, (n, 1))
    wrong = (right + rng.integers(1, 9, (n, 3))) % 9
    said = np.where(rng.random((n, 3)) < rates, right, wrong)
    mute = rng.random((n, 3)) < 0.03
    answers = tuple(
        tuple(None if u else "ABCDEFGHI"[a] for a, u in zip(row, unread, strict=True))
        for row, unread in zip(said.tolist(), mute.tolist(), strict=True)
    )
    queries = tuple(Query(str(i), str(i)) for i in range(n))
    outcomes = ((said == right) & ~mute).astype(float)
    scores = np.clip(rates + rng.normal(0, 0.05, (n, 3)), 0.05, 0.95)
    return OutcomeTable(queries, POOL.ids, outcomes, answers), scores


TABLE, TOLD = _table()


@cache
def _planning(k_max: int = 3) -> Planning:
    elections = Elections.of(TABLE, TOLD, "independent", IndependentVotes(9))
    return Planning(SetsHeard.of(elections, 3, k_max), TOLD, COSTS, k_max)


def test_two_cheap_experts_are_asked_before_a_dear_one() -> None:
    """At 0.02 a billion c alone is worth 0.85 - 0.2 = 0.65, and a 0.65 - 0.02 = 0.63.

    Both a and b cost 0.06 and agree on 44 % of the queries, which saves c there: 0.06 + 0.56 x 0.2
    for about 0.91 is worth 0.74. No score says so.
    """
    planning = _planning()
    policy = _policy(planning.plan(POOL.ids, 0.02), 9)
    first = policy.next(TOLD[0], POOL, ())
    assert first in ("a", "b")
    other = "b" if first == "a" else "a"
    assert policy.next(TOLD[0], POOL, [Heard(first, "A")]) == other
    agreed, differ = ([Heard(first, "A"), Heard(other, said)] for said in "AB")
    assert policy.next(TOLD[0], POOL, agreed) is None
    assert policy.next(TOLD[0], POOL, differ) == "c"


@pytest.mark.parametrize("k_max", [1, 2, 3])
def test_simulated_planned_votes_ask_what_the_policy_asks(k_max: int) -> None:
    planning = _planning(k_max)
    for multiplier in (0.0, 0.01, 0.03, 0.1):
        plan = planning.plan(POOL.ids, multiplier)
        replayed = replay(_policy(plan, 9, k_max), TOLD, TABLE, POOL)
        marks = planning.asked(plan)[:, None] >> np.arange(3) & 1
        np.testing.assert_array_equal(marks, replayed.asked(POOL.ids))


def test_a_higher_price_spends_less_for_less() -> None:
    fared = [_planning().fared(multiplier) for multiplier in (0.0, 0.03, 0.2)]
    assert fared[0][0] + 0.02 > fared[1][0] > fared[2][0] + 0.1
    assert fared[0][1] > fared[1][1] > fared[2][1]


@pytest.mark.parametrize("budget", [2.0, 6.0, 9.0])
def test_the_lowest_multiplier_within_a_budget_is_found(budget: float) -> None:
    multiplier = _planning().multiplier_for(budget)
    assert multiplier is not None
    assert 0.6 * budget < _planning().fared(multiplier)[1] <= budget


def test_no_multiplier_keeps_less_than_the_cheapest_expert() -> None:
    assert _planning().multiplier_for(0.9) is None
    assert _planning().multiplier_for(13.0) == 0.0


@cache
def _fitted(budget: float = 9.0) -> tuple[PolicySpec, LearnedVote]:
    given_ = PolicySpec.parsed(f"planned-vote:{COST}:budget={budget:g}")
    spec = tuned(given_, TABLE, TOLD, POOL, "learned")
    return spec, fitted_vote(spec, TABLE, TOLD, POOL)


def test_tuning_keeps_the_budget_and_beats_one_call() -> None:
    spec, vote = _fitted()
    assert spec.options.keys() == {"cost", "multiplier"}
    policy = policy_of(spec, vote)
    assert isinstance(policy, AdaptivePolicy)
    fresh, told = _table(seed=1)
    replayed = replay(policy, told, fresh, POOL)
    assert (replayed.asked(POOL.ids) @ COSTS).mean() <= 9.3
    won = verdict_scores(replayed, told, fresh, by_model(vote, POOL))
    # One call of c on 89 % of the queries and of a on the others costs as much, for 0.83.
    assert won.mean() > 0.86


def test_a_plan_travels_in_the_artifact_of_its_vote(tmp_path: Path) -> None:
    spec, vote = _fitted()
    vote.artifact().save(tmp_path / "vote")
    restored = LearnedVote(Artifact.load(tmp_path / "vote"))
    before, after = policy_of(spec, vote), policy_of(spec, restored.with_scores({}))
    assert isinstance(before, PlannedVote)
    assert isinstance(after, PlannedVote)
    np.testing.assert_array_equal(before.plan.weights, after.plan.weights)
    assert (before.plan.expert_ids, before.plan.multiplier) == (POOL.ids, after.plan.multiplier)
    assert after.model.chances(TOLD[0], POOL, [Heard("a", "A")]) == vote.chances(
        TOLD[0], POOL, [Heard("a", "A")]
    )


def test_fits_are_repeatable() -> None:
    spec, vote = _fitted()
    assert spec == tuned(spec, TABLE, TOLD, POOL, "learned")
    again = fitted_vote(spec, TABLE, TOLD, POOL)
    assert vote.plan is not None
    assert again.plan is not None
    np.testing.assert_array_equal(vote.plan.arrays["weights"], again.plan.arrays["weights"])


def test_a_plan_of_named_experts_reads_their_columns() -> None:
    """The table's order counts for columns, the pool's for costs."""
    turned = ExpertPool(tuple(POOL.subset(["c", "a", "b"])))
    text = f"planned-vote:{COST}:multiplier=0.03:experts=c+a"
    spec = PolicySpec.parsed(text)
    vote = fitted_vote(spec, TABLE, TOLD, turned)
    assert vote.expert_ids == ("a", "c")
    few = TABLE.for_experts(["a", "c"])
    expected = fitted_vote(spec, few, TOLD[:, [0, 2]], POOL.subset(["a", "c"])).plan
    assert vote.plan is not None
    assert expected is not None
    np.testing.assert_array_equal(vote.plan.arrays["weights"], expected.arrays["weights"])
    policy = policy_of(spec, vote)
    assert isinstance(policy, AdaptiveAmong)
    assert policy.next(TOLD[0], POOL, ()) in ("a", "c")


def test_a_decision_takes_under_a_millisecond() -> None:
    spec, vote = _fitted()
    policy = policy_of(spec, vote)
    assert isinstance(policy, PlannedVote)
    heard = [Heard("a", "A"), Heard("b", "B")]
    times = []
    for _ in range(50):
        start = perf_counter()
        policy.next(TOLD[0], POOL, heard)
        times.append(perf_counter() - start)
    assert min(times) < 1e-3


def test_what_cannot_be_planned_is_refused() -> None:
    spec, vote = _fitted()
    bare = fitted_vote(PolicySpec("vote", 3), TABLE, TOLD)
    for model in (None, IndependentVotes(), bare):
        with pytest.raises(ConfigError, match="set the aggregator to learned"):
            policy_of(spec, model)
    other = PolicySpec.parsed(f"planned-vote:{COST}:multiplier=0.5")
    with pytest.raises(ConfigError, match=r"not 0\.5; fit it again"):
        policy_of(other, vote)
    with pytest.raises(ConfigError, match="needs the pool"):
        fitted_vote(spec, TABLE, TOLD)
    budget = PolicySpec.parsed(f"planned-vote:{COST}:budget=5")
    with pytest.raises(ConfigError, match="set the aggregator to learned"):
        tuned(budget, TABLE, TOLD, POOL, "majority")
    low = PolicySpec.parsed(f"planned-vote:{COST}:budget=0.5")
    with pytest.raises(ConfigError, match="raise the budget"):
        tuned(low, TABLE, TOLD, POOL, "learned")


def test_many_experts_are_not_planned_with() -> None:
    ids = [f"e{i}" for i in range(6)]
    pool = ExpertPool(tuple(Expert(i, ScriptedSpec(), params_active_b=1.0) for i in ids))
    table = OutcomeTable((Query("q", "q"),), pool.ids, np.ones((1, 6)), (("A",) * 6,))
    spec = PolicySpec.parsed(f"planned-vote:{COST}:multiplier=0.1")
    with pytest.raises(ConfigError, match="at most 5 experts"):
        fitted_vote(spec, table, np.full((1, 6), 0.5), pool)
    named = PolicySpec.parsed(f"planned-vote:{COST}:budget=3:experts={'+'.join(ids)}")
    with pytest.raises(ConfigError, match="at most 5 experts"):
        tuned(named, table, np.full((1, 6), 0.5), pool, "learned")


def test_costs_are_those_of_the_pool() -> None:
    """Twice as dear, and half the multiplier: the same decisions."""
    dear = ExpertPool(
        tuple(Expert(i, ScriptedSpec(), params_active_b=2 * p) for i, p in PARAMS.items())
    )
    np.testing.assert_array_equal(costs_of(dear, "params_active_b"), 2 * COSTS)
    half = Plan(BY_HAND.expert_ids, BY_HAND.weights, BY_HAND.multiplier / 2)
    for row in TOLD[:20]:
        for heard in ([], [Heard("a", "A")], [Heard("a", "A"), Heard("c", "B")]):
            assert _policy(half).next(row, dear, heard) == _policy().next(row, POOL, heard)
