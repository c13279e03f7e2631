"""Tuning: limits kept on the table, the best within them, and the same numbers every time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError, PoolMismatch
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import (
    AskAll,
    IndependentVotes,
    PolicySpec,
    costs_of,
    majority,
    policy_of,
    replay,
    verdict_scores,
)
from coe.routers.policies.chains import (
    PricedElections,
    considered,
    drawn_sets,
    grown_chain,
    priced_votes,
)
from coe.routers.policies.elections import Elections, VoteKind
from coe.routers.policies.replay import by_majority, by_model
from coe.routers.policies.tuning import fitted_vote, tuned
from coe.routing import AdaptivePolicy, FloatArray
from coe.types import Query

PARAMS = {"big": 60.0, "mid": 12.0, "s1": 4.0, "s2": 5.0, "s3": 6.0, "dud": 30.0, "poor": 40.0}
RATES = np.array([0.85, 0.65, 0.55, 0.55, 0.5, 0.1, 0.1])
POOL = ExpertPool(tuple(Expert(i, ScriptedSpec(), params_active_b=p) for i, p in PARAMS.items()))
COST = "cost=params_active_b"
VOTES: tuple[VoteKind, ...] = ("learned", "independent", "majority")


def _table(n: int = 400, seed: int = 0) -> tuple[OutcomeTable, FloatArray]:
    """Five options; scores are each expert's chance on an easy or a hard query."""
    rng = np.random.default_rng(seed)
    easier = rng.choice([-0.2, 0.1], size=(n, 1))
    scores = np.clip(RATES + easier + rng.normal(0, 0.02, (n, len(RATES))), 0.03, 0.97)
    right = rng.integers(0, 5, (n, 1))
    said = np.where(
        rng.random(scores.shape) < scores, right, (right + rng.integers(1, 5, scores.shape)) % 5
    )
    unread = rng.random(scores.shape) < 0.05
    answers = tuple(
        tuple(None if u else "ABCDE"[a] for a, u in zip(row, mute, strict=True))
        for row, mute in zip(said.tolist(), unread.tolist(), strict=True)
    )
    queries = tuple(Query(str(i), str(i)) for i in range(n))
    outcomes = ((said == right) & ~unread).astype(float)
    return OutcomeTable(queries, POOL.ids, outcomes, answers), scores


TABLE, SCORES = _table()


def _fared(spec: PolicySpec, vote: VoteKind = "independent") -> tuple[float, float, float]:
    """Mean outcome, calls and cost on the table that it was tuned on."""
    model = fitted_vote(spec, TABLE, SCORES) if vote == "learned" else IndependentVotes()
    policy = policy_of(spec, model)
    asks = policy if isinstance(policy, AdaptivePolicy) else AskAll(policy)
    replayed = replay(asks, SCORES, TABLE, POOL)
    verdict = by_majority if vote == "majority" else by_model(model, POOL)
    won = verdict_scores(replayed, SCORES, TABLE, verdict)
    spent = replayed.asked(POOL.ids) @ costs_of(POOL, "params_active_b")
    return float(won.mean()), float(replayed.calls.mean()), float(spent.mean())


@cache
def _tuned(text: str, vote: VoteKind = "independent") -> PolicySpec:
    return tuned(PolicySpec.parsed(text), TABLE, SCORES, POOL, vote)


@given(calls=st.floats(1.0, 6.0), vote=st.sampled_from(VOTES[1:]))
@settings(max_examples=15, deadline=None)
def test_calls_are_kept_on_the_table(calls: float, vote: VoteKind) -> None:
    spec = _tuned(f"adaptive-vote:k=6:calls={calls!r}", vote)
    assert spec.is_tuned
    assert _fared(spec, vote)[1] <= calls


@pytest.mark.parametrize("vote", VOTES)
def test_more_calls_are_never_worse_and_some_are_better(vote: VoteKind) -> None:
    qualities = [
        _elected(_tuned(f"adaptive-vote:k=5:calls={calls}", vote), vote) for calls in (1, 2, 4)
    ]
    assert qualities == sorted(qualities)
    assert qualities[0] < qualities[-1]


def _elected(spec: PolicySpec, vote: VoteKind) -> float:
    """The outcome that tuning saw: of held-out votes."""
    ballots = Elections.of(TABLE, SCORES, vote, IndependentVotes())
    fared = [ballots.after(ballots.ballots.first(k + 1)) for k in range(spec.k)]
    stop = np.full(len(SCORES), spec.k - 1)
    ranked = -np.sort(-SCORES, axis=1)
    for k in reversed(range(spec.k - 1)):
        sign = fared[k][0] - (ranked[:, k + 1] if "lead" in spec.options else 0.0)
        least = spec.options.get("lead", spec.options["confidence"])
        stop = np.where((fared[k][0] > 0) & (sign >= least), k, stop)
    return float(np.stack([won for _, won in fared])[stop, np.arange(len(stop))].mean())


@given(budget=st.floats(6.0, 60.0), k=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_a_price_on_cost_keeps_the_budget(budget: float, k: int) -> None:
    if budget < 9.2 and k == 2:
        with pytest.raises(ConfigError, match="raise the budget"):
            _tuned(f"top-{k}:{COST}:budget={budget!r}")
        return
    spec = _tuned(f"top-{k}:{COST}:budget={budget!r}")
    assert _fared(spec)[2] <= budget
    assert spec.options.keys() == {"cost", "multiplier"}


def test_a_higher_budget_costs_more_and_does_better() -> None:
    fared = [_fared(_tuned(f"top-1:{COST}:budget={b}")) for b in (5, 15, 40)]
    assert [spent for _, _, spent in fared] == sorted(spent for _, _, spent in fared)
    assert fared[0][0] < fared[1][0] < fared[2][0]


@pytest.mark.parametrize("vote", VOTES)
def test_a_priced_vote_keeps_the_budget_and_beats_one_call(vote: VoteKind) -> None:
    quality, _, spent = _fared(_tuned(f"priced-vote:{COST}:budget=20", vote), vote)
    # A vote fitted on all queries stops elsewhere than those that tuning held queries out from.
    assert spent <= (21 if vote == "learned" else 20)
    noise = 0.01 if vote == "learned" else 0.0
    assert quality + noise > _fared(_tuned(f"top-1:{COST}:budget=20"))[0]


def test_a_priced_vote_considers_no_expert_that_is_dear_and_poor() -> None:
    chosen = _tuned(f"priced-vote:{COST}:budget=20").experts
    assert chosen is not None
    assert "s1" in chosen
    assert not {"dud", "poor"} & set(chosen)


def test_experts_that_are_named_are_kept() -> None:
    spec = _tuned(f"priced-vote:{COST}:budget=20:experts=s2+big")
    assert spec.experts == ("s2", "big")
    assert _fared(spec)[2] <= 20


def test_options_that_are_given_are_kept() -> None:
    spec = _tuned(f"priced-vote:{COST}:budget=20:n_options=5:trust=0.5:experts=s1+big")
    assert (spec.options["n_options"], spec.options["trust"]) == (5, 0.5)
    assert _tuned("adaptive-vote:k=3:calls=2:n_options=5").options["n_options"] == 5


@pytest.mark.parametrize(
    "text", ["adaptive-vote:k=5:calls=2", f"priced-vote:{COST}:budget=20", f"top-1:{COST}:budget=9"]
)
def test_tuning_is_repeatable_reads_back_and_is_done_once(text: str) -> None:
    spec = _tuned(text)
    assert spec == tuned(PolicySpec.parsed(text), TABLE, SCORES, POOL)
    assert PolicySpec.parsed(str(spec)) == spec
    assert tuned(spec, TABLE, SCORES, POOL) is spec


def test_simulated_priced_votes_ask_what_the_policy_asks() -> None:
    """The same outcome and cost as replaying the policy, for any setting and set of experts."""
    model = IndependentVotes()
    few = POOL.subset(["big", "mid", "s1", "s2"])
    table, scores = TABLE.for_experts(few.ids), SCORES[:, :4]
    costs = costs_of(few, "params_active_b")
    priced = PricedElections(Elections.of(table, scores, "independent", model), scores, costs, 3)
    for policy in priced_votes("params_active_b", costs, 3, {}, every=16):
        replayed = replay(policy, scores, table, few)
        won = verdict_scores(replayed, scores, table, by_model(model, few))
        spent = (replayed.asked(few.ids) @ costs).mean()
        assert priced.fared(policy, range(4)) == pytest.approx((won.mean(), spent))


def test_elections_follow_the_models_that_they_stand_for() -> None:
    elections = Elections.of(TABLE, SCORES, "independent", IndependentVotes(5, 0.7))
    chance, won = elections.after(elections.ballots.first(3))
    counted = Elections.of(TABLE, SCORES, "majority", IndependentVotes(5, 0.7))
    by_count = counted.after(counted.ballots.first(3))[1]
    model, top = IndependentVotes(5, 0.7), AskAll(policy_of(PolicySpec("top-k", 3)))  # type: ignore[arg-type]
    replayed = replay(top, SCORES, TABLE, POOL)
    for i, heard in enumerate(replayed.heard[:50]):
        told = model.chances(SCORES[i], POOL, heard)
        assert chance[i] == pytest.approx(max(told.values(), default=0.0))
    by_vote = verdict_scores(replayed, SCORES, TABLE, by_model(model, POOL))
    np.testing.assert_array_equal(won[chance > 0], by_vote[chance > 0] > 0)
    named = np.array([majority(heard) is not None for heard in replayed.heard])
    np.testing.assert_array_equal(
        by_count[named], verdict_scores(replayed, SCORES, TABLE)[named] > 0
    )


def test_held_out_votes_never_saw_their_query() -> None:
    """Answers that name their query teach a vote nothing about the queries of other folds."""
    n = 200
    rng = np.random.default_rng(0)
    outcomes = (rng.random((n, 2)) < 0.5).astype(float)
    answers = tuple(("A", "B") for _ in range(n))
    outcomes[:, 1] = 1 - outcomes[:, 0]
    table = OutcomeTable(
        tuple(Query(str(i), str(i)) for i in range(n)), ("a", "b"), outcomes, answers
    )
    scores = np.full((n, 2), 0.5)
    elections = Elections.of(table, scores, "learned", IndependentVotes())
    won = elections.after(elections.ballots)[1]
    assert 0.3 < won.mean() < 0.6


def test_drawn_sets_hold_one_to_the_most() -> None:
    sets = drawn_sets(500, 6, 3)
    sizes = np.stack(sets).sum(axis=2)
    assert set(np.unique(sizes)) == {1, 2, 3}
    assert np.stack(sets).any(axis=(0, 1)).all()


def test_only_experts_worth_it_somewhere_are_looked_at() -> None:
    seen = considered(SCORES, costs_of(POOL, "params_active_b"), 3)
    assert 0 in seen
    assert not {5, 6} & set(seen)


def test_a_chain_grows_from_the_cheapest_while_it_gets_better() -> None:
    costs = costs_of(POOL, "params_active_b")
    elections = Elections.of(TABLE, SCORES, "independent", IndependentVotes())
    priced = PricedElections(elections, SCORES, costs, 3)
    policies = priced_votes("params_active_b", costs, 3, {}, every=8)
    assert grown_chain(priced, policies, 4.0) == (2,)
    chain = grown_chain(priced, policies, 25.0)
    assert len(chain) > 1
    qualities = [found[0] for each in ((2,), chain) if (found := priced.best(each, policies, 25.0))]
    assert qualities[1] > qualities[0]
    with pytest.raises(ConfigError, match="the cost of the cheapest expert"):
        grown_chain(priced, policies, 3.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adaptive-vote:calls=0.5", "give at least 1"),
        (f"priced-vote:{COST}:budget=3", "raise the budget"),
        (f"priced-vote:{COST}:budget=3:experts=big+mid", "raise the budget"),
        (f"top-1:{COST}:budget=3", "raise the budget"),
        ("top-1:cost=usd_per_mtok:budget=3", "is not known"),
        ("votes:calls=3", "unknown policy"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _tuned(text)


def test_another_pool_is_refused() -> None:
    with pytest.raises(PoolMismatch):
        tuned(PolicySpec.parsed("adaptive-vote:calls=2"), TABLE, SCORES, POOL.subset(["big"]))
    none = TABLE.rows(np.zeros(400, bool))
    with pytest.raises(ConfigError, match="no outcomes"):
        tuned(PolicySpec.parsed("adaptive-vote:calls=2"), none, SCORES[:0], POOL)


def test_a_vote_is_fitted_for_the_experts_considered() -> None:
    every = fitted_vote(PolicySpec("vote", 3), TABLE, SCORES)
    few = fitted_vote(PolicySpec("vote", 3, {"experts": "s1+big"}), TABLE, SCORES)
    assert (every.expert_ids, few.expert_ids) == (POOL.ids, ("big", "s1"))
    assert isinstance(few, LearnedVote)


@pytest.mark.parametrize(
    ("text", "everybody"),
    [
        ("top-7", True),
        ("top-k:k=9", True),
        ("top-6", False),
        ("top-2:experts=s1+big", True),
        ("vote:k=7", False),
    ],
)
def test_a_vote_of_everybody_at_once_is_fitted_for_that_alone(text: str, everybody: bool) -> None:
    """A vote that may stop early is asked about fewer answers, too."""
    few = TABLE.rows(np.arange(400) < 60)
    vote = fitted_vote(PolicySpec.parsed(text), few, SCORES[:60])
    assert vote.artifact().manifest.settings["everybody"] is everybody
