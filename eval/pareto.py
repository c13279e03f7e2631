"""Cost against quality: the curve of a router, and single numbers for it.

RouteLLM (arXiv 2406.18665, section on metrics) routes between two models and puts on one axis the
share of calls that go to the strong one. Here any number of experts is routed between:

- The weak expert is the cheapest one, the strong one the best single expert. Both are chosen on
  training data; the qualities of both are those on the queries judged.
- Cost share is (cost - weak's cost) / (strong's cost - weak's cost) of the mean cost a query. For
  two experts of fixed cost it is RouteLLM's share of strong calls. A router may spend more than 1.
- PGR, the performance gap recovered, is (quality - weak's) / (strong's - weak's). It is above 1
  where routing beats the best single expert.
- APGR is the mean of PGR over cost shares from 0 to 1, by trapezoids between the points measured
  and flat beyond the last one, since less may always be spent.
- CPT(x) is the least cost share at which PGR reaches x.

The baseline is a coin that sends a query to the strong expert with a fixed probability: its curve
is the straight line from weak to strong, so its APGR is 0.5 and its CPT(x) is x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.outcomes import FloatArray, IntArray

_STEPS = 60
_SPAN = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Mean quality by mean cost a query, costs rising; both (n_points,).

    Between two points lies what a coin that mixes them brings.
    """

    costs: FloatArray
    quality: FloatArray

    @classmethod
    def of(cls, costs: FloatArray, quality: FloatArray) -> Curve:
        """In any order; of points of one cost the best is kept."""
        order = np.lexsort((-quality, costs))
        costs, quality = costs[order], quality[order]
        is_first = np.concatenate([[True], np.diff(costs) > 0])
        return cls(costs[is_first], quality[is_first])

    def at(self, cost: FloatArray) -> FloatArray:
        """Quality at these costs, flat beyond both ends."""
        found: FloatArray = np.interp(cost, self.costs, self.quality)
        return found

    def least_cost(self, quality: float) -> float:
        """Where the curve first reaches a quality; NaN if it never does."""
        reached = np.flatnonzero(self.quality >= quality)
        if len(reached) == 0:
            return float("nan")
        i = int(reached[0])
        if i == 0:
            return float(self.costs[0])
        rise = self.quality[i] - self.quality[i - 1]
        part = (quality - self.quality[i - 1]) / rise
        return float(self.costs[i - 1] + part * (self.costs[i] - self.costs[i - 1]))


@dataclass(frozen=True, slots=True)
class Gap:
    """From the cheapest expert to the best single one: cost and quality of both."""

    weak_cost: float
    weak_quality: float
    strong_cost: float
    strong_quality: float

    @property
    def exists(self) -> bool:
        """Without both a dearer and a better expert nothing can be recovered."""
        return self.strong_cost > self.weak_cost and self.strong_quality > self.weak_quality

    def share(self, costs: FloatArray) -> FloatArray:
        shares: FloatArray = (costs - self.weak_cost) / (self.strong_cost - self.weak_cost)
        return shares

    def recovered(self, quality: FloatArray) -> FloatArray:
        """PGR."""
        gap: FloatArray = (quality - self.weak_quality) / (self.strong_quality - self.weak_quality)
        return gap

    def coin(self) -> Curve:
        """The baseline: weak and strong, mixed at random."""
        return Curve.of(
            np.array([self.weak_cost, self.strong_cost]),
            np.array([self.weak_quality, self.strong_quality]),
        )


def apgr(curve: Curve, gap: Gap) -> float:
    """Average performance gap recovered; NaN where there is no gap."""
    if not gap.exists:
        return float("nan")
    shares = gap.share(curve.costs)
    knots = np.concatenate([[0.0], shares[(shares > 0) & (shares < 1)], [1.0]])
    quality = np.interp(knots, shares, curve.quality)
    return float(np.trapezoid(gap.recovered(quality), knots))


def cpt(curve: Curve, gap: Gap, recovered: float) -> float:
    """The least cost share that recovers this part of the gap; NaN where none does."""
    if not gap.exists:
        return float("nan")
    wanted = gap.weak_quality + recovered * (gap.strong_quality - gap.weak_quality)
    return float(gap.share(np.array(curve.least_cost(wanted))))


def equal_quality_cost(curve: Curve, gap: Gap) -> float:
    """The least cost that is as good as the best single expert, as a share of *its* cost.

    0.6 means that 40 % is saved; NaN where the curve never gets there, or where the best single
    expert is free, so that nothing can be saved.
    """
    if gap.strong_cost <= 0:
        return float("nan")
    return curve.least_cost(gap.strong_quality) / gap.strong_cost


def hull(costs: FloatArray, quality: FloatArray) -> IntArray:
    """Indices of the upper convex hull, from the cheapest point to the best, costs rising.

    What random mixes of fixed experts can reach: a router is worth its name above it.
    """
    kept: list[int] = []
    for i in np.lexsort((-quality, costs)).tolist():
        if kept and quality[i] <= quality[kept[-1]]:
            continue
        while len(kept) > 1 and _is_below(costs, quality, kept[-2], kept[-1], i):
            kept.pop()
        kept.append(i)
    return np.array(kept, dtype=np.intp)


def _is_below(costs: FloatArray, quality: FloatArray, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or under the line between the others."""
    across = (costs[middle] - costs[left]) * (quality[right] - quality[left])
    return bool(across >= (costs[right] - costs[left]) * (quality[middle] - quality[left]))


def swept_curve(
    scores: FloatArray, costs: FloatArray, outcomes: FloatArray, spent: FloatArray
) -> Curve:
    """The curve of top-1 over score - multiplier x cost, from nought to only the cheapest.

    `scores`, `outcomes` and `spent` (n_queries, n_experts), `costs` (n_experts,) what deciding
    takes each expert to cost, which need not be what it did. Unmeasured outcomes are left out.
    """
    rows = np.arange(len(scores))
    points = []
    for multiplier in _multipliers(scores, costs):
        chosen = (scores - multiplier * costs).argmax(axis=1)
        points.append((spent[rows, chosen].mean(), np.nanmean(outcomes[rows, chosen])))
    cheapest = np.where(costs == costs.min(), scores, -np.inf).argmax(axis=1)
    points.append((spent[rows, cheapest].mean(), np.nanmean(outcomes[rows, cheapest])))
    return Curve.of(*np.array(points).T)


def _multipliers(scores: FloatArray, costs: FloatArray) -> FloatArray:
    """From nought to the one under which no query is worth more than the cheapest expert."""
    cheapest = costs == costs.min()
    if cheapest.all():
        return np.zeros(1)
    worth = scores[:, ~cheapest] - scores[:, cheapest].max(axis=1, keepdims=True)
    highest = float((worth / (costs[~cheapest] - costs.min())).max())
    if highest <= 0:
        return np.zeros(1)
    return np.concatenate([[0.0], np.geomspace(_SPAN * highest, highest, _STEPS)])
