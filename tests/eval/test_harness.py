from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.datasets import RecordedBenchmark
from coe.eval.harness import Judged, Row, check_apart, evaluate
from coe.eval.metrics import one_each
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.types import Query


@pytest.fixture
def fit_table(table: OutcomeTable) -> OutcomeTable:
    """Other queries, on which b is best."""
    queries = tuple(Query(f"fitted {i}", f"f{i}", "law") for i in range(2))
    scores = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    return OutcomeTable(queries, table.expert_ids, scores)


@pytest.fixture
def benchmark(table: OutcomeTable, pool: ExpertPool) -> RecordedBenchmark:
    return RecordedBenchmark(table, pool)


def _judged(benchmark: RecordedBenchmark, columns: Sequence[int], router: str = "r") -> Judged:
    """A router that chose these experts, one a query."""
    chosen = one_each(benchmark.table, benchmark.pool, np.array(columns))
    return Judged(router, "top-1", chosen)


def _row(rows: Sequence[Row], router: str) -> Row:
    return next(row for row in rows if row.router == router)


def test_references_stand_around_the_routers(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable
) -> None:
    rows = evaluate(benchmark, [_judged(benchmark, [0, 0, 0, 0])], fit_table, "mine")
    assert [(row.router, row.policy) for row in rows] == [
        ("random", "reference"),
        ("best-single", "reference"),
        ("r", "top-1"),
        ("oracle", "reference"),
    ]
    assert {row.pool for row in rows} == {"mine"}


def test_best_single_is_chosen_on_the_fit_data(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable
) -> None:
    row = _row(evaluate(benchmark, [], fit_table), "best-single")
    # On the benchmark itself a is better, with 0.5.
    assert benchmark.table.best_single() == "a"
    assert row.shares == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert row.accuracy == 0.375
    assert (row.diff, row.diff_low, row.diff_high) == (0.0, 0.0, 0.0)


def test_router_is_judged_by_what_it_chose(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable
) -> None:
    row = _row(evaluate(benchmark, [_judged(benchmark, [1, 1, 0, 0])], fit_table), "r")
    # b on law: 0 and 1; a on the others: 0 and 1. Best single b: 0, 1, 0 and 0.5.
    assert (row.accuracy, row.n, row.not_measured) == (0.5, 4, 0)
    assert row.diff == 0.125
    assert row.regret == 0.25
    assert row.active_params_b == 1.5
    assert row.cost_usd == pytest.approx((2 + 4 + 5) / 3)
    assert row.shares == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_query_not_measured_is_left_out_and_counted(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    unmeasured = replace(benchmark.table, scores=benchmark.table.scores.copy())
    unmeasured.scores[0, 2] = np.nan
    gap = RecordedBenchmark(unmeasured, pool)
    row = _row(evaluate(gap, [_judged(gap, [2, 2, 2, 0])], fit_table), "r")
    assert (row.n, row.not_measured) == (3, 1)
    assert row.accuracy == pytest.approx(2 / 3)


def test_row_says_how_it_came_about(benchmark: RecordedBenchmark, fit_table: OutcomeTable) -> None:
    judged = replace(
        _judged(benchmark, [0, 0, 0, 0]),
        policy="top-1:budget=2",
        tuned="top-1:multiplier=0.5",
        aggregator="learned",
        is_calibrated=True,
    )
    row = _row(evaluate(benchmark, [judged], fit_table), "r")
    assert (row.policy, row.tuned) == ("top-1:budget=2", "top-1:multiplier=0.5")
    assert (row.aggregator, row.is_calibrated) == ("learned", True)


def test_interval_of_a_row_does_not_depend_on_the_others(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable
) -> None:
    router = _judged(benchmark, [1, 1, 0, 0])
    other = _judged(benchmark, [0, 0, 0, 0], "other")
    alone = evaluate(benchmark, [router], fit_table, seed=3)
    beside = evaluate(benchmark, [other, router], fit_table, seed=3)
    assert _row(alone, "r") == _row(beside, "r")
    assert _row(alone, "r").low < 0.5 < _row(alone, "r").high


@pytest.mark.parametrize(
    ("query", "n_shared"),
    [
        (Query("question 2", "q2"), 1),
        (Query("question 2", "another"), 1),
        (Query("another", "q2"), 1),
        (Query("another", "another"), 0),
    ],
)
def test_queries_that_were_fitted_on_are_refused(
    benchmark: RecordedBenchmark, query: Query, n_shared: int
) -> None:
    fitted = OutcomeTable((query,), benchmark.table.expert_ids, np.ones((1, 3)))
    if not n_shared:
        check_apart(benchmark.table, fitted)
        return
    with pytest.raises(DatasetError, match="1 of 4 queries to judge on were fitted on"):
        evaluate(benchmark, [], fitted)


def test_benchmark_without_queries_is_refused(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    empty = RecordedBenchmark(benchmark.table.rows(np.zeros(4, bool)), pool)
    with pytest.raises(DatasetError, match="no query to judge on"):
        evaluate(empty, [], fit_table)
