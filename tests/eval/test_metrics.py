from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.aggregation import First, MajorityVote
from coe.errors import DatasetError
from coe.eval.metrics import (
    chosen_experts,
    oracle,
    random_expert,
    regret,
    selection_entropy,
    single_expert,
)
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.types import Completion, GenerationRequest, Query

NAN = float("nan")


class _Invents:
    name = "invents"

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return "Z"


class _Shouts:
    name = "shouts"

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return f" {completions[0][1].text.swapcase()}\n"


def test_one_chosen_expert_brings_its_own_score(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = chosen_experts(table, pool, [("a",), ("b",), ("a",), ("c",)], First())
    np.testing.assert_array_equal(judged.score, [1.0, 1.0, 0.0, NAN])
    np.testing.assert_array_equal(judged.calls, 1.0)
    np.testing.assert_array_equal(judged.active_params_b, [1.0, 2.0, 1.0, NAN])
    assert judged.shares == {"a": 0.5, "b": 0.25, "c": 0.25}


def test_recruited_experts_vote(table: OutcomeTable, pool: ExpertPool) -> None:
    everyone = [("a", "b", "c")] * 4
    judged = chosen_experts(table, pool, everyone, MajorityVote())
    # Two say B, wrongly; two say B, rightly; a's C is as good as c's D; a before b, c absent.
    np.testing.assert_array_equal(judged.score, [0.0, 1.0, 0.0, 1.0])
    np.testing.assert_array_equal(judged.calls, 3.0)


def test_tied_vote_goes_to_the_better_ranked(table: OutcomeTable, pool: ExpertPool) -> None:
    first_a = chosen_experts(table, pool, [("a", "b")] * 4, MajorityVote()).score
    first_b = chosen_experts(table, pool, [("b", "a")] * 4, MajorityVote()).score
    np.testing.assert_array_equal(first_a, [1.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(first_b, [0.0, 1.0, 0.0, 0.5])


def test_unreadable_answer_has_no_vote(table: OutcomeTable, pool: ExpertPool) -> None:
    scored = table.scores.copy()
    scored[2] = [0.0, 0.0, 1.0]
    judged = chosen_experts(
        replace(table, scores=scored), pool, [("a",), ("a",), ("b", "c"), ("a",)], First()
    )
    assert judged.score[2] == 1.0


def test_unreadable_answers_alone_bring_the_best_ranked_score(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    unread = replace(table, answers=((None,) * 3,) * 4)
    judged = chosen_experts(unread, pool, [("b", "a")] * 4, MajorityVote())
    np.testing.assert_array_equal(judged.score, table.scores[:, 1])


def test_query_that_no_chosen_expert_was_measured_on_is_not_measured(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    nothing = replace(table, scores=np.full((4, 3), NAN))
    judged = chosen_experts(nothing, pool, [("a", "b")] * 4, MajorityVote())
    assert np.isnan(judged.score).all()


def test_expert_that_was_not_measured_has_no_vote(table: OutcomeTable, pool: ExpertPool) -> None:
    scores = table.scores.copy()
    scores[0, 1] = NAN
    judged = chosen_experts(
        replace(table, scores=scores), pool, [("b", "a")] + [("a",)] * 3, First()
    )
    assert judged.score[0] == 1.0


def test_aggregated_answer_is_known_in_another_case(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = chosen_experts(table, pool, [("a", "b")] * 4, _Shouts())
    np.testing.assert_array_equal(judged.score, table.scores[:, 0])


def test_answer_that_nobody_gave_cannot_be_judged(table: OutcomeTable, pool: ExpertPool) -> None:
    with pytest.raises(DatasetError, match="'invents' gave an answer that no expert gave"):
        chosen_experts(table, pool, [("a", "b")] * 4, _Invents())


def test_scores_without_answers_cannot_vote(table: OutcomeTable, pool: ExpertPool) -> None:
    scores_only = replace(table, answers=None)
    with pytest.raises(DatasetError, match="only scores were recorded"):
        chosen_experts(scores_only, pool, [("a", "b")] * 4, MajorityVote())
    single = chosen_experts(scores_only, pool, [("a",)] * 4, MajorityVote())
    np.testing.assert_array_equal(single.score, table.scores[:, 0])


def test_cost_is_summed_over_calls(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = chosen_experts(table, pool, [("a", "b"), ("b",), ("a",), ("b",)], MajorityVote())
    np.testing.assert_array_equal(judged.cost_usd, [3.0, 4.0, 5.0, 8.0])


def test_cost_is_unknown_once_an_expert_without_price_is_called(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    judged = chosen_experts(table, pool, [("a",), ("a",), ("a",), ("c",)], First())
    assert np.isnan(judged.cost_usd).all()


def test_random_is_the_exact_mean_over_measured_experts(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    judged = random_expert(table, pool)
    np.testing.assert_allclose(judged.score, [1 / 3, 2 / 3, 0.0, 0.75])
    np.testing.assert_allclose(judged.calls, 1.0)
    np.testing.assert_allclose(judged.active_params_b, [NAN, NAN, NAN, 1.5])
    assert sum(judged.shares.values()) == pytest.approx(1.0)


def test_oracle_takes_the_best_measured_expert(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = oracle(table, pool)
    np.testing.assert_array_equal(judged.score, [1.0, 1.0, 0.0, 1.0])
    assert judged.shares == {"a": 0.75, "b": 0.25, "c": 0.0}


def test_regret_is_what_the_oracle_had_more(table: OutcomeTable, pool: ExpertPool) -> None:
    lost = regret(single_expert(table, pool, "c").score, table)
    np.testing.assert_array_equal(lost, [1.0, 0.0, 0.0, NAN])


@pytest.mark.parametrize(
    ("shares", "bits"),
    [
        ({"a": 1.0, "b": 0.0}, 0.0),
        ({"a": 0.5, "b": 0.5}, 1.0),
        ({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, 2.0),
    ],
)
def test_selection_entropy_is_in_bits(shares: dict[str, float], bits: float) -> None:
    assert selection_entropy(shares) == bits


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1))
def test_random_best_single_and_oracle_are_in_order(rows: list[list[float]]) -> None:
    ids = ("a", "b", "c")
    table = OutcomeTable(tuple(Query(str(i)) for i in range(len(rows))), ids, np.array(rows))
    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ids))
    means = [
        random_expert(table, pool).score.mean(),
        single_expert(table, pool, table.best_single()).score.mean(),
        oracle(table, pool).score.mean(),
    ]
    assert means[0] <= means[1] + 1e-12
    assert means[1] <= means[2]
