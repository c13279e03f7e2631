from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.eval.metrics import (
    best_by_category,
    one_each,
    oracle,
    per_query,
    random_expert,
    regret,
    selection_entropy,
    single_expert,
)
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.types import Query

NAN = float("nan")


def test_cost_is_summed_over_calls(table: OutcomeTable, pool: ExpertPool) -> None:
    calls = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=float)
    judged = per_query(table, pool, np.zeros(4), calls)
    np.testing.assert_array_equal(judged.cost_usd, [3.0, 4.0, 5.0, 8.0])
    np.testing.assert_array_equal(judged.active_params_b, [3.0, 2.0, 1.0, 2.0])
    assert judged.shares == {"a": 0.4, "b": 0.6, "c": 0.0}


def test_cost_is_unknown_once_an_expert_without_price_is_called(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    judged = one_each(table, pool, np.array([0, 0, 0, 2]))
    assert np.isnan(judged.cost_usd).all()
    np.testing.assert_array_equal(judged.score, [1.0, 0.0, 0.0, NAN])


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


def test_best_by_category_is_an_oracle_in_hindsight_and_a_table_otherwise(
    table: OutcomeTable, pool: ExpertPool
) -> None:
    hindsight = best_by_category(table, pool, table)
    # a and b share law, the earlier counts; nobody wins math; a is best overall.
    np.testing.assert_array_equal(hindsight.score, [1.0, 0.0, 0.0, 1.0])
    queries = tuple(Query(f"other {i}", f"o{i}", "law") for i in range(2))
    other = OutcomeTable(queries, table.expert_ids, np.array([[0.0, 1.0, 0.0]] * 2))
    learnt = best_by_category(table, pool, other)
    np.testing.assert_array_equal(learnt.score, [0.0, 1.0, 0.0, 0.5])


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
