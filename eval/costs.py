"""What calls cost on a recorded benchmark: expected when deciding, and as it came out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError, nearest
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.policies.budgets import COSTS, costs_of

USD = "usd"
"""Dollars of the answers as recorded; the other costs are what the pool says of an expert."""


@dataclass(frozen=True, slots=True, eq=False)
class CallCosts:
    """What each expert takes for each query."""

    expected: FloatArray
    """(n_experts,) all that is known before asking."""
    spent: FloatArray
    """(n_queries, n_experts)"""


def check_cost(name: str) -> None:
    """Raises `ConfigError` with the nearest known name."""
    if name != USD and name not in COSTS:
        guess = nearest(name, (USD, *COSTS))
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown cost {name!r} (known: {USD}, {', '.join(COSTS)}){hint}")


def call_costs(name: str, benchmark: RecordedBenchmark, fitted_on: OutcomeTable) -> CallCosts:
    """`name` is "usd" or one of `coe.routers.policies.COSTS`.

    Of "usd" an expert's mean over the training answers is expected. Raises `ConfigError` naming an
    expert whose cost is not known, or saying that the answers judged have none.
    """
    check_cost(name)
    pool, table = benchmark.pool, benchmark.table
    if name != USD:
        fixed = costs_of(pool, name)
        return CallCosts(fixed, np.broadcast_to(fixed, table.scores.shape))
    trained = fitted_on.for_experts(pool.ids).cost_usd
    if table.cost_usd is None and trained is not None:
        raise ConfigError(
            "what answers cost was recorded for training, but not for the queries to judge on; "
            "record it there, too, or name another --cost",
            key="cost",
        )
    measured = np.zeros(len(pool), bool) if trained is None else ~np.isnan(trained).all(axis=0)
    if table.cost_usd is None or trained is None or not measured.all():
        unknown = pool.ids[int(np.argmin(measured))]
        raise ConfigError(
            f"what answers of expert {unknown!r} cost was not recorded; name experts whose price "
            "is known, or another --cost",
            key="cost",
        )
    expected = np.nanmean(trained, axis=0)
    return CallCosts(expected, np.where(np.isnan(table.cost_usd), expected, table.cost_usd))
