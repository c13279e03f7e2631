"""What a choice of experts brought, as one number per query; means are for `intervals`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coe.experts import ExpertPool
from coe.outcomes import FloatArray, IntArray, OutcomeTable


@dataclass(frozen=True, slots=True, eq=False)
class PerQuery:
    """One number per query, arrays of (n_queries,)."""

    score: FloatArray
    """NaN where none of the experts called was measured."""
    calls: FloatArray
    active_params_b: FloatArray
    """Billions of parameters used per token, summed over the calls; NaN where not known."""
    cost_usd: FloatArray
    """NaN where not known, and everywhere once an expert called has no known price at all."""
    shares: Mapping[str, float]
    """Share of the calls that went to each expert; they add up to one."""


def single_expert(table: OutcomeTable, pool: ExpertPool, expert_id: str) -> PerQuery:
    """One expert for every query."""
    calls = np.zeros((table.n_queries, len(table.expert_ids)))
    calls[:, table.expert_ids.index(expert_id)] = 1.0
    return per_query(table, pool, table.column(expert_id), calls)


def random_expert(table: OutcomeTable, pool: ExpertPool) -> PerQuery:
    """The exact expectation of choosing uniformly among the experts measured on each query."""
    calls = (~np.isnan(table.scores)).astype(float)
    counts = calls.sum(axis=1)
    calls /= np.maximum(counts, 1)[:, None]
    scores = np.where(counts > 0, np.nansum(table.scores * calls, axis=1), np.nan)
    return per_query(table, pool, scores, calls)


def one_each(table: OutcomeTable, pool: ExpertPool, columns: IntArray) -> PerQuery:
    """One expert a query, by its column of the table."""
    rows = np.arange(table.n_queries)
    calls = np.zeros((table.n_queries, len(table.expert_ids)))
    calls[rows, columns] = 1.0
    return per_query(table, pool, table.scores[rows, columns], calls)


def oracle(table: OutcomeTable, pool: ExpertPool) -> PerQuery:
    """The best expert of each query, known in hindsight; the earliest of equals."""
    return one_each(table, pool, _best_columns(table))


def best_by_category(table: OutcomeTable, pool: ExpertPool, chosen_on: OutcomeTable) -> PerQuery:
    """The expert that is best on the query's category in `chosen_on`.

    Chosen on `table` itself it is the dataset oracle, in hindsight. A category that `chosen_on`
    lacks, or that is not known, gets the expert that is best on all of it.
    """
    leaders = {
        category: chosen_on.rows(
            np.array([query.category == category for query in chosen_on.queries])
        ).best_single()
        for category in chosen_on.categories
    }
    overall = chosen_on.best_single()
    column = {expert_id: i for i, expert_id in enumerate(table.expert_ids)}
    leading = [leaders.get(query.category or "", overall) for query in table.queries]
    return one_each(table, pool, np.array([column[id_] for id_ in leading], dtype=np.intp))


def oracle_scores(table: OutcomeTable) -> FloatArray:
    """(n_queries,) best score of any expert; NaN where none was measured."""
    scores: FloatArray = table.scores[np.arange(table.n_queries), _best_columns(table)]
    return scores


def regret(scores: FloatArray, table: OutcomeTable) -> FloatArray:
    """(n_queries,) score lost against the oracle; NaN where either is not measured.

    Below zero only where several experts together beat the best of them.
    """
    lost: FloatArray = oracle_scores(table) - scores
    return lost


def selection_entropy(shares: Mapping[str, float]) -> float:
    """Bits of the distribution of calls: 0 for one expert, log2 of the pool for uniform."""
    used = np.array([share for share in shares.values() if share > 0])
    return float(-(used * np.log2(used)).sum()) + 0.0


def _best_columns(table: OutcomeTable) -> IntArray:
    columns: IntArray = np.where(np.isnan(table.scores), -np.inf, table.scores).argmax(axis=1)
    return columns


def per_query(
    table: OutcomeTable, pool: ExpertPool, scores: FloatArray, calls: FloatArray
) -> PerQuery:
    """`scores`: (n_queries,); `calls`: (n_queries, n_experts) expected, columns as the table's."""
    known = {expert.id: expert.params_active_b for expert in pool}
    params = np.array([known[id_] for id_ in table.expert_ids], dtype=float)
    total = calls.sum()
    shares = calls.sum(axis=0) / total if total else np.zeros(len(table.expert_ids))
    return PerQuery(
        score=scores,
        calls=calls.sum(axis=1),
        active_params_b=_summed(calls, np.broadcast_to(params, calls.shape)),
        cost_usd=_costs(table, calls),
        shares=dict(zip(table.expert_ids, shares.tolist(), strict=True)),
    )


def _costs(table: OutcomeTable, calls: FloatArray) -> FloatArray:
    if table.cost_usd is None:
        return np.full(table.n_queries, np.nan)
    has_no_price = np.isnan(table.cost_usd).all(axis=0)
    if calls[:, has_no_price].any():
        # The mean over the other queries alone would flatter a router that avoids it.
        return np.full(table.n_queries, np.nan)
    return _summed(calls, table.cost_usd)


def _summed(calls: FloatArray, amounts: FloatArray) -> FloatArray:
    """(n_queries,) amounts weighted by calls; an unknown amount matters only where called."""
    summed: FloatArray = (calls * np.where(calls > 0, amounts, 0.0)).sum(axis=1)
    return summed
