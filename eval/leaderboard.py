"""Routers side by side: one call a query, and the trade of cost against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError
from coe.eval.costs import CallCosts, call_costs
from coe.eval.harness import REFERENCE, Judged, Row, evaluate
from coe.eval.headroom import Headroom, headroom_of
from coe.eval.metrics import best_by_category, one_each
from coe.eval.pareto import Curve, Gap, apgr, cpt, equal_quality_cost, hull, swept_curve
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable

MIX = "mix of experts"
"""The curve of fixed experts mixed at random, which needs no router."""


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """One router's curve of cost against quality, and what it comes down to.

    The terms are those of `coe.eval.pareto`; NaN where a number does not exist.
    """

    router: str
    apgr: float
    cpt_50: float
    cpt_80: float
    equal_quality_cost: float
    costs: tuple[float, ...]
    quality: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One pool, with the category given to routers or hidden from them."""

    pool: str
    category: str
    n_experts: int
    best_single: str
    cheapest: str | None
    """None where costs are not known."""
    rows: tuple[Row, ...]
    tradeoffs: tuple[Tradeoff, ...]
    no_tradeoff: str | None
    """Why there is none."""
    headroom: Headroom | None
    """None where no query was answered by all experts."""
    experts: Mapping[str, tuple[float, float]]
    """Each expert's mean cost and quality on the queries judged; empty without costs."""


def leaderboard(
    benchmark: RecordedBenchmark,
    fitted_on: OutcomeTable,
    scores: Mapping[str, FloatArray],
    names: tuple[str, str],
    cost: str,
    seed: int = 0,
) -> Board:
    """Every router's best expert a query, beside the references, and its curve.

    `scores` router → (n_queries, n_experts); `names` those of the pool and of how the category
    was told. The benchmark has the categories in either case: the dataset oracle, which is the
    best expert of each category in hindsight, and the dataset table, which is that of training,
    are references.
    """
    table, pool = benchmark.table, benchmark.pool
    fitted_on = fitted_on.for_experts(pool.ids)
    judged = [
        Judged(router, "top-1", one_each(table, pool, each.argmax(axis=1)))
        for router, each in scores.items()
    ]
    references = {"dataset-table": fitted_on, "dataset-oracle": table}
    judged += [
        Judged(name, REFERENCE, best_by_category(table, pool, chosen_on))
        for name, chosen_on in references.items()
    ]
    rows = tuple(evaluate(benchmark, judged, fitted_on, names[0], seed))
    tradeoffs: Sequence[Tradeoff] = ()
    cheapest, no_tradeoff = None, None
    experts: dict[str, tuple[float, float]] = {}
    try:
        costs = call_costs(cost, benchmark, fitted_on)
    except ConfigError as error:
        no_tradeoff = error.problem
    else:
        cheapest = _cheapest(costs, fitted_on)
        tradeoffs = _tradeoffs(table, fitted_on, scores, costs)
        spent = costs.spent.mean(axis=0).tolist()
        experts = dict(zip(pool.ids, zip(spent, table.means().tolist(), strict=True), strict=True))
    return Board(
        pool=names[0],
        category=names[1],
        n_experts=len(pool),
        best_single=fitted_on.best_single(),
        cheapest=cheapest,
        rows=rows,
        tradeoffs=tuple(tradeoffs),
        no_tradeoff=no_tradeoff,
        headroom=headroom_of(table),
        experts=experts,
    )


def _tradeoffs(
    table: OutcomeTable,
    fitted_on: OutcomeTable,
    scores: Mapping[str, FloatArray],
    costs: CallCosts,
) -> list[Tradeoff]:
    gap = _gap(table, fitted_on, costs)
    curves = {MIX: _mix(table, fitted_on, costs)}
    for router, each in scores.items():
        curves[router] = swept_curve(each, costs.expected, table.scores, costs.spent)
    return [
        Tradeoff(
            router=router,
            apgr=apgr(curve, gap),
            cpt_50=cpt(curve, gap, 0.5),
            cpt_80=cpt(curve, gap, 0.8),
            equal_quality_cost=equal_quality_cost(curve, gap),
            costs=tuple(curve.costs.tolist()),
            quality=tuple(curve.quality.tolist()),
        )
        for router, curve in curves.items()
    ]


def _gap(table: OutcomeTable, fitted_on: OutcomeTable, costs: CallCosts) -> Gap:
    spent, means = costs.spent.mean(axis=0), table.means()
    weak = table.expert_ids.index(_cheapest(costs, fitted_on))
    strong = table.expert_ids.index(fitted_on.best_single())
    return Gap(
        weak_cost=float(spent[weak]),
        weak_quality=float(means[weak]),
        strong_cost=float(spent[strong]),
        strong_quality=float(means[strong]),
    )


def _cheapest(costs: CallCosts, fitted_on: OutcomeTable) -> str:
    """Of several equally cheap experts the best one."""
    means = np.nan_to_num(fitted_on.means(), nan=-1.0)
    order = np.lexsort((-means, costs.expected))
    return fitted_on.expert_ids[int(order[0])]


def _mix(table: OutcomeTable, fitted_on: OutcomeTable, costs: CallCosts) -> Curve:
    """Experts on the hull of training, as they do on the queries judged."""
    corners = hull(costs.expected, np.nan_to_num(fitted_on.means(), nan=-1.0))
    return Curve.of(costs.spent.mean(axis=0)[corners], table.means()[corners])
