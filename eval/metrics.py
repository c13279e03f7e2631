"""What a choice of experts brought, as one number per query; means are for `intervals`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.aggregation import Aggregator
from coe.eval.recruited import recruited_scores
from coe.experts import ExpertPool
from coe.outcomes import FloatArray, IntArray, OutcomeTable

Chosen = Sequence[Sequence[str]]
"""The experts called for each query, best first."""


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


def chosen_experts(
    table: OutcomeTable, pool: ExpertPool, chosen: Chosen, aggregator: Aggregator
) -> PerQuery:
    """What the chosen experts bring; several answer together through the aggregator."""
    scores = asyncio.run(recruited_scores(table, chosen, aggregator))
    calls = np.zeros((table.n_queries, len(table.expert_ids)))
    column = {expert_id: i for i, expert_id in enumerate(table.expert_ids)}
    for row, experts in enumerate(chosen):
        calls[row, [column[expert_id] for expert_id in experts]] = 1.0
    return _weighted(table, pool, np.array(scores), calls)


def single_expert(table: OutcomeTable, pool: ExpertPool, expert_id: str) -> PerQuery:
    """One expert for every query."""
    calls = np.zeros((table.n_queries, len(table.expert_ids)))
    calls[:, table.expert_ids.index(expert_id)] = 1.0
    return _weighted(table, pool, table.column(expert_id), calls)


def random_expert(table: OutcomeTable, pool: ExpertPool) -> PerQuery:
    """The exact expectation of choosing uniformly among the experts measured on each query."""
    calls = (~np.isnan(table.scores)).astype(float)
    counts = calls.sum(axis=1)
    calls /= np.maximum(counts, 1)[:, None]
    scores = np.where(counts > 0, np.nansum(table.scores * calls, axis=1), np.nan)
    return _weighted(table, pool, scores, calls)


def oracle(table: OutcomeTable, pool: ExpertPool) -> PerQuery:
    """The best expert of each query, known in hindsight; the earliest of equals."""
    best = _best_columns(table)
    calls = np.zeros((table.n_queries, len(table.expert_ids)))
    calls[np.arange(table.n_queries), best] = 1.0
    return _weighted(table, pool, oracle_scores(table), calls)


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


def _weighted(
    table: OutcomeTable, pool: ExpertPool, scores: FloatArray, calls: FloatArray
) -> PerQuery:
    """`calls`: (n_queries, n_experts) expected calls, columns as in the table."""
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
