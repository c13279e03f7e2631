from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, PoolMismatch, RoutingError
from coe.eval.judging import (
    by_first,
    by_weight,
    check_aggregator,
    comparable,
    judged_policy,
    verdict_named,
)
from coe.experts import ExpertPool
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.policies import AskAll, FallbackOnUnreadable, TopK
from coe.routing import Heard

NAN = float("nan")
A_FIRST = np.tile([0.3, 0.2, 0.1], (4, 1))
B_FIRST = np.tile([0.2, 0.3, 0.1], (4, 1))
C_FIRST = np.tile([0.2, 0.1, 0.3], (4, 1))


def test_one_chosen_expert_brings_its_own_score(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = judged_policy(TopK(1), C_FIRST, table, pool)
    np.testing.assert_array_equal(judged.score, [0.0, 1.0, 0.0, NAN])
    np.testing.assert_array_equal(judged.calls, 1.0)
    np.testing.assert_array_equal(judged.active_params_b, NAN)
    assert judged.shares == {"a": 0.0, "b": 0.0, "c": 1.0}


def test_recruited_experts_vote(table: OutcomeTable, pool: ExpertPool) -> None:
    judged = judged_policy(TopK(3), A_FIRST, comparable(table), pool)
    # Two say B, wrongly; two say B, rightly; a's C is as good as c's D; a before b, c absent.
    np.testing.assert_array_equal(judged.score, [0.0, 1.0, 0.0, 1.0])
    np.testing.assert_array_equal(judged.calls, 3.0)


@pytest.mark.parametrize(
    ("scores", "expected"), [(A_FIRST, [1.0, 0.0, 0.0, 1.0]), (B_FIRST, [0.0, 1.0, 0.0, 0.5])]
)
def test_tied_vote_goes_to_the_better_ranked(
    table: OutcomeTable, pool: ExpertPool, scores: FloatArray, expected: Sequence[float]
) -> None:
    judged = judged_policy(TopK(2), scores, table, pool)
    np.testing.assert_array_equal(judged.score, expected)


def test_adaptive_policy_is_asked_again_and_its_calls_are_counted(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    judged = judged_policy(FallbackOnUnreadable(2), B_FIRST, table, pool)
    # b's third answer cannot be read, so a is asked as well.
    np.testing.assert_array_equal(judged.calls, [1, 1, 2, 1])
    np.testing.assert_array_equal(judged.score, [0.0, 1.0, 0.0, 0.5])
    np.testing.assert_array_equal(judged.active_params_b, [2, 2, 3, 2])
    np.testing.assert_array_equal(judged.cost_usd, [2, 4, 11, 8])


def test_static_policy_asks_the_same_all_at_once_or_in_turn(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    at_once = judged_policy(TopK(2), A_FIRST, table, pool)
    in_turn = judged_policy(AskAll(TopK(2)), A_FIRST, table, pool)
    np.testing.assert_array_equal(at_once.score, in_turn.score)
    np.testing.assert_array_equal(at_once.calls, in_turn.calls)


def test_unreadable_answers_alone_bring_the_best_ranked_score(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    unread = replace(table, answers=((None,) * 3,) * 4)
    judged = judged_policy(TopK(2), B_FIRST, unread, pool)
    np.testing.assert_array_equal(judged.score, table.scores[:, 1])


def test_expert_that_was_not_measured_fails(table: OutcomeTable, pool: ExpertPool) -> None:
    scores = table.scores.copy()
    scores[0, 1] = NAN
    judged = judged_policy(TopK(2), B_FIRST, replace(table, scores=scores), pool)
    assert judged.score[0] == 1.0


def test_scores_without_answers_serve_policies_that_choose_one(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    scores_only = replace(table, answers=None)
    np.testing.assert_array_equal(
        judged_policy(TopK(1), A_FIRST, scores_only, pool).score, table.scores[:, 0]
    )
    with pytest.raises(DatasetError, match="only scores were recorded, so several experts"):
        judged_policy(TopK(2), A_FIRST, scores_only, pool)
    with pytest.raises(DatasetError, match="an adaptive policy needs the answers"):
        judged_policy(FallbackOnUnreadable(2), A_FIRST, scores_only, pool)


def test_weights_can_outvote_a_majority(pool: ExpertPool) -> None:
    heard = (Heard("a", "A"), Heard("b", "B"), Heard("c", "B"))
    assert by_weight(pool)(np.array([0.9, 0.2, 0.2]), heard) == "A"
    assert by_weight(pool)(np.array([0.5, 0.5, 0.5]), heard) == "B"
    assert by_weight(pool)(np.array([0.5, 0.5, 0.5]), (Heard("a", None),)) is None


def test_first_takes_the_first_that_could_be_read() -> None:
    heard = (Heard("a", None), Heard("b", "B"), Heard("c", "C"))
    assert by_first(np.zeros(3), heard) == "B"
    assert by_first(np.zeros(3), heard[:1]) is None


def test_verdicts_go_by_name(pool: ExpertPool) -> None:
    heard = (Heard("a", "A"), Heard("b", "B"), Heard("c", "B"))
    scores = np.array([0.9, 0.2, 0.2])
    given = {name: verdict_named(name, pool)(scores, heard) for name in ("majority", "weighted")}
    assert given == {"majority": "B", "weighted": "A"}
    assert verdict_named("first", pool)(scores, heard) == "A"


def test_unknown_aggregator_names_the_nearest(pool: ExpertPool) -> None:
    with pytest.raises(ConfigError, match=r"unknown aggregator 'learnt'.*did you mean 'learned'"):
        check_aggregator("learnt")
    with pytest.raises(ConfigError, match="must be fitted first"):
        verdict_named("learned", pool)


def test_answers_compare_without_case_and_outer_space(table: OutcomeTable) -> None:
    answers = comparable(table).answers
    assert answers is not None
    assert answers[1:3] == (("a", "b", "b"), ("c", None, "d"))
    assert comparable(replace(table, answers=None)).answers is None


def test_answers_of_another_pool_are_refused(table: OutcomeTable, pool: ExpertPool) -> None:
    with pytest.raises(PoolMismatch):
        judged_policy(TopK(1), A_FIRST, table, pool.subset(["a", "b"]))


def test_policy_that_chooses_nobody_is_refused(table: OutcomeTable, pool: ExpertPool) -> None:
    class Nobody:
        name = "nobody"

        def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
            return ()

    with pytest.raises(RoutingError, match="'nobody' chose no expert"):
        judged_policy(Nobody(), A_FIRST, table, pool)
