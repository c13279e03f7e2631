from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.datasets import RecordedBenchmark
from coe.eval.entrants import Chances, Entrant, held_out_chances, judge
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.calibrated import reads_probabilities
from coe.routers.policies import PolicySpec
from coe.routing import Encoder, Scorer
from coe.types import Query

POOL = ExpertPool(
    tuple(
        Expert(id_, ScriptedSpec(), params_active_b=size)
        for id_, size in (("small", 1.0), ("big", 10.0), ("other", 2.0))
    )
)
N = 60


def _table(prefix: str) -> OutcomeTable:
    """On even queries all are right, on odd ones only the big expert, and the others agree."""
    is_even = np.arange(N) % 2 == 0
    scores = np.stack([is_even, np.ones(N), is_even], axis=1).astype(float)
    answers = tuple(("A", "A", "A") if even else ("B", "A", "B") for even in is_even)
    queries = tuple(
        Query(f"{prefix} {i}", f"{prefix}{i}", "even" if i % 2 == 0 else "odd") for i in range(N)
    )
    return OutcomeTable(queries, POOL.ids, scores, answers)


def _even() -> FloatArray:
    return np.array([[0.9, 0.99, 0.9] if i % 2 == 0 else [0.1, 0.99, 0.1] for i in range(N)])


@pytest.fixture
def entrant() -> Entrant:
    """Ranks the small expert first by its own scores, and knows better as probabilities."""
    raw = np.tile([3.0, 2.0, 1.0], (N, 1))
    return Entrant("mine", raw, lambda: Chances(_even(), _even()))


BENCHMARK = RecordedBenchmark(_table("test"), POOL)
TRAIN = _table("train")


@pytest.mark.parametrize(
    ("spec", "aggregator", "expected"),
    [
        ("top-1", "majority", False),
        ("vote:k=3", "majority", False),
        ("fallback", "first", False),
        ("top-3", "weighted", True),
        ("top-3", "learned", True),
        ("adaptive-vote", "majority", True),
        ("top-1:cost=gib:budget=3", "majority", True),
        ("top-1:cost=gib:multiplier=3", "majority", True),
        ("cascade:threshold=0.9", "majority", True),
    ],
)
def test_probabilities_are_made_only_where_they_are_read(
    spec: str, aggregator: str, expected: bool
) -> None:
    assert reads_probabilities(PolicySpec.parsed(spec), aggregator) is expected


def test_ranking_policy_sees_the_scorers_own_scores(entrant: Entrant) -> None:
    judged = judge(entrant, PolicySpec.parsed("top-1"), "majority", BENCHMARK, TRAIN)
    assert judged.per_query.shares["small"] == 1.0
    assert (judged.policy, judged.tuned, judged.aggregator) == ("top-1", None, None)
    assert not judged.is_calibrated


def test_budget_is_tuned_on_training_and_kept(entrant: Entrant) -> None:
    spec = PolicySpec.parsed("top-1:cost=params_active_b:budget=6")
    judged = judge(entrant, spec, "majority", BENCHMARK, TRAIN)
    assert judged.policy == "top-1:cost=params_active_b:budget=6"
    assert judged.tuned is not None
    assert "multiplier=" in judged.tuned
    assert judged.is_calibrated
    # Half of the queries are worth the big expert: 0.5 x 1 + 0.5 x 10.
    assert judged.per_query.active_params_b.mean() == 5.5
    assert judged.per_query.score.mean() == 1.0


def test_learned_vote_knows_who_errs_together(entrant: Entrant) -> None:
    spec = PolicySpec.parsed("top-3")
    majority = judge(entrant, spec, "majority", BENCHMARK, TRAIN)
    learned = judge(entrant, spec, "learned", BENCHMARK, TRAIN)
    assert majority.per_query.score.mean() == 0.5
    assert learned.per_query.score.mean() == 1.0
    assert learned.aggregator == "learned"
    assert learned.is_calibrated


def test_adaptive_vote_stops_within_its_calls(entrant: Entrant) -> None:
    spec = PolicySpec.parsed("adaptive-vote:k=3:calls=2")
    judged = judge(entrant, spec, "learned", BENCHMARK, TRAIN)
    assert judged.per_query.calls.mean() <= 2
    assert judged.per_query.score.mean() == 1.0


def test_chances_and_votes_are_made_once() -> None:
    made = []

    def make() -> Chances:
        made.append(1)
        return Chances(_even(), _even())

    entrant = Entrant("mine", _even(), make)
    spec = PolicySpec.parsed("top-3")
    first = entrant.learned_vote(spec, TRAIN, POOL)
    assert entrant.learned_vote(spec, TRAIN, POOL) is first
    judge(entrant, spec, "weighted", BENCHMARK, TRAIN)
    assert made == [1]


def test_learned_vote_is_fitted_for_its_policy() -> None:
    """Nothing about a row depends on which policies were judged before it."""
    specs = [PolicySpec.parsed(text) for text in ("top-3", "top-1", "top-2", "top-3:experts=big")]

    def weights(order: Sequence[PolicySpec]) -> dict[str, FloatArray]:
        entrant = Entrant("mine", _even(), lambda: Chances(_even(), _even()))
        votes = {str(spec): entrant.learned_vote(spec, TRAIN, POOL) for spec in order}
        return {text: vote.artifact().arrays["weights"] for text, vote in votes.items()}

    forwards, backwards = weights(specs), weights(specs[::-1])
    for text, found in forwards.items():
        np.testing.assert_array_equal(found, backwards[text])
    assert not np.array_equal(forwards["top-3"], forwards["top-1"])


def test_planned_vote_is_told_the_costs_of_the_pool(entrant: Entrant) -> None:
    spec = PolicySpec.parsed("planned-vote:cost=params_active_b:budget=11")
    judged = judge(entrant, spec, "learned", BENCHMARK, TRAIN)
    assert judged.per_query.active_params_b.mean() <= 11
    assert judged.per_query.score.mean() == 1.0


def test_learned_vote_needs_answers(entrant: Entrant) -> None:
    scores_only = OutcomeTable(TRAIN.queries, POOL.ids, TRAIN.scores)
    with pytest.raises(DatasetError, match="a learned vote needs the answers"):
        judge(entrant, PolicySpec.parsed("top-1"), "learned", BENCHMARK, scores_only)


class _ByCategory:
    """Sure of the big expert, and of the others only where it is told that a query is even."""

    name = "by-category"
    expert_ids = POOL.ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array([[q.category == "even", 1.0, q.category == "even"] for q in queries], float)


class _NoEncoder:
    name = "none"
    dim = 1

    def encode(self, texts: Sequence[str]) -> FloatArray:
        raise AssertionError("not needed")


def test_held_out_scores_become_probabilities() -> None:
    n_fits = []

    def fit(table: OutcomeTable, encoder: Encoder) -> Scorer:
        n_fits.append(table.n_queries)
        return _ByCategory()

    raw = _ByCategory().score(BENCHMARK.table.queries)
    told = held_out_chances(fit, TRAIN, _NoEncoder(), raw)
    assert n_fits == [48] * 5
    small = told.judged[:, 0]
    assert small[0] > 0.9
    assert small[1] < 0.1
    np.testing.assert_allclose(told.fitted_on, told.judged)
    untold = held_out_chances(fit, TRAIN, _NoEncoder(), raw, tells_category=False)
    np.testing.assert_allclose(untold.fitted_on[:, 0], 0.5, atol=0.05)
