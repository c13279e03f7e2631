"""Judged policies as rows of a report, beside random, best single and oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.errors import DatasetError
from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.eval.metrics import PerQuery, oracle, oracle_scores, random_expert, single_expert
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable

REFERENCE = "reference"
"""The policy named in the rows of random, best single and oracle, which are no routers."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What one router under one policy brought."""

    router: str
    policy: str
    per_query: PerQuery
    tuned: str | None = None
    """The policy's spec with the numbers that tuning found; None where nothing was tuned."""
    aggregator: str | None = None
    """None where there was nothing to aggregate."""
    is_calibrated: bool = False
    """Whether the policy saw probabilities or the scorer's own scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """One router's result. Fractions, not per cent; NaN is not known."""

    router: str
    policy: str
    pool: str
    n: int
    """Queries that the estimate rests on."""
    not_measured: int
    """Queries left out, because none of the experts called has an outcome on them."""
    accuracy: float
    low: float
    high: float
    diff: float
    """Mean difference to the best single expert, paired by query."""
    diff_low: float
    diff_high: float
    regret: float
    """Mean score lost against the oracle."""
    calls: float
    """Experts called per query."""
    active_params_b: float
    """Billions of parameters used per token, summed over the calls of a query."""
    cost_usd: float
    """Per query."""
    shares: Mapping[str, float]
    """Share of the calls that went to each expert."""
    tuned: str | None = None
    aggregator: str | None = None
    is_calibrated: bool = False
    """These three as in `Judged`."""


def evaluate(
    benchmark: RecordedBenchmark,
    judged: Sequence[Judged],
    fit_table: OutcomeTable,
    pool_name: str = "all",
    seed: int = 0,
) -> list[Row]:
    """Rows of random, best-single, what was judged in the order given, and the oracle.

    The best single expert is chosen on `fit_table`, which must share no query with the
    benchmark. Intervals depend on the seed alone, not on which others are in the list.
    """
    check_apart(benchmark.table, fit_table)
    table, pool = benchmark.table, benchmark.pool
    best_single = fit_table.for_experts(pool.ids).best_single()
    bounds = _Bounds(table.column(best_single), oracle_scores(table))
    everyone = [
        Judged("random", REFERENCE, random_expert(table, pool)),
        Judged("best-single", REFERENCE, single_expert(table, pool, best_single)),
        *judged,
        Judged("oracle", REFERENCE, oracle(table, pool)),
    ]
    return [bounds.row(each, pool_name, seed) for each in everyone]


def check_apart(judged: OutcomeTable, fitted: OutcomeTable) -> None:
    """Raises `DatasetError` if there is nothing to judge on, or some of it was fitted on."""
    if judged.n_queries == 0:
        raise DatasetError("the benchmark has no query to judge on")
    ids = {query.id for query in fitted.queries}
    texts = {query.text for query in fitted.queries}
    shared = sum(query.id in ids or query.text in texts for query in judged.queries)
    if shared:
        raise DatasetError(
            f"{shared} of {judged.n_queries} queries to judge on were fitted on (by id or by "
            "text); use two splits, and in each only ids and texts that the other lacks"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
    """Scores of the best single expert and of the oracle, (n_queries,) each."""

    best_single: FloatArray
    oracle: FloatArray

    def row(self, judged: Judged, pool: str, seed: int) -> Row:
        each = judged.per_query
        accuracy = bootstrap_mean(each.score, np.random.default_rng(seed))
        diff = bootstrap_difference(each.score, self.best_single, np.random.default_rng(seed))
        measured = ~np.isnan(each.score)
        return Row(
            router=judged.router,
            policy=judged.policy,
            pool=pool,
            n=accuracy.n,
            not_measured=accuracy.n_missing,
            accuracy=accuracy.mean,
            low=accuracy.low,
            high=accuracy.high,
            diff=diff.mean,
            diff_low=diff.low,
            diff_high=diff.high,
            regret=_mean((self.oracle - each.score)[measured]),
            calls=_mean(each.calls[measured]),
            active_params_b=_mean(each.active_params_b[measured]),
            cost_usd=_mean_known(each.cost_usd[measured]),
            shares=each.shares,
            tuned=judged.tuned,
            aggregator=judged.aggregator,
            is_calibrated=judged.is_calibrated,
        )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _mean_known(values: FloatArray) -> float:
    return _mean(values[~np.isnan(values)])
