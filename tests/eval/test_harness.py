from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from coe.aggregation import First
from coe.errors import DatasetError, PoolMismatch
from coe.eval.datasets import RecordedBenchmark
from coe.eval.harness import Row, evaluate
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routing import FloatArray, Router
from coe.types import Query


class _ByCategory:
    """Prefers the expert named for the category."""

    name = "table"

    def __init__(self, best: Mapping[str, str], expert_ids: Sequence[str]) -> None:
        self._best = best
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        best = [self._best.get(query.category or "", self.expert_ids[0]) for query in queries]
        return np.array([[float(id_ == b) for id_ in self.expert_ids] for b in best])


class _Top:
    def __init__(self, k: int) -> None:
        self.name = f"top-{k}"
        self._k = k

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        order = np.argsort(-scores, kind="stable")[: self._k]
        return tuple(pool.ids[i] for i in order)


@pytest.fixture
def fit_table(table: OutcomeTable) -> OutcomeTable:
    """Other queries, on which b is best."""
    queries = tuple(Query(f"fitted {i}", f"f{i}", "law") for i in range(2))
    scores = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    return OutcomeTable(queries, table.expert_ids, scores)


@pytest.fixture
def benchmark(table: OutcomeTable, pool: ExpertPool) -> RecordedBenchmark:
    return RecordedBenchmark(table, pool)


def _router(pool: ExpertPool, k: int = 1, **best: str) -> Router:
    return Router(_ByCategory(best, pool.ids), _Top(k), pool)


def _row(rows: Sequence[Row], router: str) -> Row:
    return next(row for row in rows if row.router == router)


def test_references_stand_around_the_routers(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    rows = evaluate(benchmark, {"table": _router(pool)}, fit_table, "mine")
    assert [(row.router, row.policy) for row in rows] == [
        ("random", "reference"),
        ("best-single", "reference"),
        ("table", "top-1"),
        ("oracle", "reference"),
    ]
    assert {row.pool for row in rows} == {"mine"}


def test_best_single_is_chosen_on_the_fit_data(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable
) -> None:
    row = _row(evaluate(benchmark, {}, fit_table), "best-single")
    # On the benchmark itself a is better, with 0.5.
    assert benchmark.table.best_single() == "a"
    assert row.shares == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert row.accuracy == 0.375
    assert (row.diff, row.diff_low, row.diff_high) == (0.0, 0.0, 0.0)


def test_router_is_judged_by_what_it_chose(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    row = _row(evaluate(benchmark, {"r": _router(pool, law="b")}, fit_table), "r")
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
    router = _router(pool, law="c", math="c")
    unmeasured = replace(benchmark.table, scores=benchmark.table.scores.copy())
    unmeasured.scores[0, 2] = np.nan
    row = _row(evaluate(RecordedBenchmark(unmeasured, pool), {"r": router}, fit_table), "r")
    assert (row.n, row.not_measured) == (3, 1)
    assert row.accuracy == pytest.approx(2 / 3)


def test_policy_is_told_apart_from_the_router(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    routers = {router.name: router for router in (_router(pool, 1), _router(pool, 3))}
    rows = evaluate(benchmark, routers, fit_table)
    assert [(row.policy, row.calls) for row in rows if row.router == "table"] == [
        ("top-1", 1.0),
        ("top-3", 3.0),
    ]


def test_recruited_experts_vote_unless_told_otherwise(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    scores = benchmark.table.scores.copy()
    scores[0] = [0.0, 1.0, 1.0]
    outvoting = RecordedBenchmark(replace(benchmark.table, scores=scores), pool)
    routers = {"r": _router(pool, 3)}
    # Ranked a, b, c: a is right on the last query only, outvoted rightly on the first two.
    assert _row(evaluate(outvoting, routers, fit_table), "r").accuracy == 0.75
    assert _row(evaluate(outvoting, routers, fit_table, aggregator=First()), "r").accuracy == 0.25


def test_interval_of_a_row_does_not_depend_on_the_others(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    router = _router(pool, law="b")
    alone = evaluate(benchmark, {"r": router}, fit_table, seed=3)
    beside = evaluate(benchmark, {"other": _router(pool), "r": router}, fit_table, seed=3)
    assert _row(alone, "r") == _row(beside, "r")
    assert _row(alone, "r").low < 0.5 < _row(alone, "r").high


def test_queries_that_were_fitted_on_are_refused(benchmark: RecordedBenchmark) -> None:
    with pytest.raises(DatasetError, match="4 of 4 queries to judge on were fitted on"):
        evaluate(benchmark, {}, benchmark.table)


def test_router_of_another_pool_is_refused(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    with pytest.raises(PoolMismatch, match="router 'r'"):
        evaluate(benchmark, {"r": _router(pool.subset(["a", "b"]))}, fit_table)


def test_benchmark_without_queries_is_refused(
    benchmark: RecordedBenchmark, fit_table: OutcomeTable, pool: ExpertPool
) -> None:
    empty = RecordedBenchmark(benchmark.table.rows(np.zeros(4, bool)), pool)
    with pytest.raises(DatasetError, match="no query to judge on"):
        evaluate(empty, {}, fit_table)
