"""Routers judged on a table of outcomes, beside random, best single and oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coe.aggregation import Aggregator, MajorityVote
from coe.errors import DatasetError, PoolMismatch
from coe.eval.datasets import RecordedBenchmark
from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.eval.metrics import (
    PerQuery,
    chosen_experts,
    oracle,
    oracle_scores,
    random_expert,
    single_expert,
)
from coe.outcomes import FloatArray, OutcomeTable
from coe.routing import Router

REFERENCE = "reference"
"""The policy named in the rows of random, best single and oracle, which are no routers."""


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


def evaluate(
    benchmark: RecordedBenchmark,
    routers: Mapping[str, Router],
    fit_table: OutcomeTable,
    pool_name: str = "all",
    aggregator: Aggregator | None = None,
    seed: int = 0,
) -> list[Row]:
    """Rows of random, best-single, the routers in the order given, and the oracle.

    The best single expert is chosen on `fit_table`, which must share no query with the
    benchmark. Names such as "knn/top-3" lose what follows the slash, if it is the policy's.
    Several experts' answers are aggregated by majority unless told otherwise. Intervals depend
    on the seed alone, not on which other routers are in the list. Not to be called from a
    running event loop: aggregators are asynchronous, and it runs one for them.
    """
    table, pool = benchmark.table, benchmark.pool
    _check(benchmark, routers, fit_table)
    best_single = fit_table.for_experts(pool.ids).best_single()
    judged: dict[tuple[str, str], PerQuery] = {
        ("random", REFERENCE): random_expert(table, pool),
        ("best-single", REFERENCE): single_expert(table, pool, best_single),
    }
    for name, router in routers.items():
        decisions = router.route_batch(table.queries)
        chosen = [decision.experts for decision in decisions]
        policy = router.policy.name
        judged[name.removesuffix(f"/{policy}"), policy] = chosen_experts(
            table, pool, chosen, aggregator or MajorityVote()
        )
    judged["oracle", REFERENCE] = oracle(table, pool)
    bounds = _Bounds(table.column(best_single), oracle_scores(table))
    return [
        bounds.row(router, policy, pool_name, per_query, seed)
        for (router, policy), per_query in judged.items()
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
    """Scores of the best single expert and of the oracle, (n_queries,) each."""

    best_single: FloatArray
    oracle: FloatArray

    def row(self, router: str, policy: str, pool: str, judged: PerQuery, seed: int) -> Row:
        accuracy = bootstrap_mean(judged.score, np.random.default_rng(seed))
        diff = bootstrap_difference(judged.score, self.best_single, np.random.default_rng(seed))
        measured = ~np.isnan(judged.score)
        return Row(
            router=router,
            policy=policy,
            pool=pool,
            n=accuracy.n,
            not_measured=accuracy.n_missing,
            accuracy=accuracy.mean,
            low=accuracy.low,
            high=accuracy.high,
            diff=diff.mean,
            diff_low=diff.low,
            diff_high=diff.high,
            regret=_mean((self.oracle - judged.score)[measured]),
            calls=_mean(judged.calls[measured]),
            active_params_b=_mean(judged.active_params_b[measured]),
            cost_usd=_mean_known(judged.cost_usd[measured]),
            shares=judged.shares,
        )


def _check(
    benchmark: RecordedBenchmark, routers: Mapping[str, Router], fit_table: OutcomeTable
) -> None:
    if benchmark.table.n_queries == 0:
        raise DatasetError("the benchmark has no query to judge on")
    for name, router in routers.items():
        if router.pool.ids != benchmark.pool.ids:
            raise PoolMismatch(
                f"router {name!r}",
                ", ".join(router.pool.ids),
                ", ".join(benchmark.pool.ids),
                "fit it on this benchmark's pool",
            )
    fitted = {(query.id, query.text) for query in fit_table.queries}
    shared = sum((query.id, query.text) in fitted for query in benchmark.table.queries)
    if shared:
        raise DatasetError(
            f"{shared} of {benchmark.table.n_queries} queries to judge on were fitted on; "
            "use two splits"
        )


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _mean_known(values: FloatArray) -> float:
    return _mean(values[~np.isnan(values)])
