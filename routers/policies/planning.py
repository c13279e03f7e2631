"""Plans for `PlannedVote`: fitted backwards from the largest sets of experts to the empty one.

A set's value on a query is the chance of its leading answer where the plan stops there, and
otherwise the value of the next set less the price of getting there. Values of larger sets are what
the regressions for smaller ones are fitted to, so that each step knows how well the plan goes on.
Multipliers are judged on queries that the plan was not fitted on, with votes that never saw them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from coe.outcomes import BoolArray, IntArray
from coe.routers.folds import fold_numbers
from coe.routers.policies.elections import SetsHeard
from coe.routers.policies.planned_vote import Plan, Situation
from coe.routing import FloatArray

RIDGE = 1.0
"""Penalty on squared weights, beside squared errors of values between 0 and 1."""
_SEED = 5
"""Another split than those of the held-out scores and of the held-out votes."""
STANDARD_ERRORS = 1.5
"""By so many standard errors of the mean cost a plan is to stay below its budget: a plan can spend
any budget to the full, and then spends more on half of all further queries."""
_LOWEST = 0.05
"""The first multiplier tried above 0, in scores per mean cost of the experts."""
_DOUBLINGS = 10
_HALVINGS = 8

_Features = Mapping[int, Mapping[int, FloatArray]]
"""Set as a bit mask → expert that is not in it → (n, n_features)."""


class Planning:
    """Plans over the sets of a few experts, heard on recorded queries."""

    def __init__(self, sets: SetsHeard, scores: FloatArray, costs: FloatArray, k_max: int) -> None:
        """`scores` (n, n_experts) were held out; `costs` (n_experts,)."""
        self._sets = sets
        self._scores = scores
        self._costs = costs
        self._k_max = min(k_max, len(costs))

    def plan(self, expert_ids: Sequence[str], multiplier: float) -> Plan:
        """Fitted on all queries."""
        every = np.ones(len(self._scores), dtype=bool)
        weights = self._weights(self._features(multiplier), multiplier, every)
        return Plan(tuple(expert_ids), weights, multiplier)

    def asked(self, plan: Plan) -> IntArray:
        """(n_queries,) masks of the experts that a vote of this plan would ask."""
        every = np.ones(len(self._scores), dtype=bool)
        features = self._features(plan.multiplier)
        return self._asked(features, plan.weights, plan.multiplier, every)

    def multiplier_for(self, budget: float) -> float | None:
        """The lowest found under which plans keep a mean cost of `budget`; None: none does."""
        if self._spends(0.0) <= budget:
            return 0.0
        low, high = 0.0, float(f"{_LOWEST / max(float(self._costs.mean()), 1e-12):.4g}")
        for _ in range(_DOUBLINGS):
            if self._spends(high) <= budget:
                break
            low, high = high, 2.0 * high
        else:
            return None
        for _ in range(_HALVINGS):
            middle = float(f"{0.5 * (low + high):.4g}")
            low, high = (low, middle) if self._spends(middle) <= budget else (middle, high)
        return high

    def fared(self, multiplier: float) -> tuple[float, float]:
        """Mean outcome and mean cost of plans, on queries that they were not fitted on."""
        asked = self._held_out(multiplier)
        won = self._sets.won[asked, np.arange(len(asked))]
        return float(won.mean()), float(self._spent(asked).mean())

    def _spends(self, multiplier: float) -> float:
        """What it costs on average, with the margin."""
        spent = self._spent(self._held_out(multiplier))
        return float(spent.mean() + STANDARD_ERRORS * spent.std() / np.sqrt(len(spent)))

    def _spent(self, asked: IntArray) -> FloatArray:
        spent: FloatArray = (asked[:, None] >> np.arange(len(self._costs)) & 1) @ self._costs
        return spent

    def _held_out(self, multiplier: float) -> IntArray:
        """(n_queries,) masks of the experts asked by plans that were not fitted on the query."""
        features = self._features(multiplier)
        folds = fold_numbers(len(self._scores), _SEED)
        asked = np.zeros(len(self._scores), dtype=np.intp)
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            rest = held if held.all() else ~held
            weights = self._weights(features, multiplier, rest)
            asked[held] = self._asked(features, weights, multiplier, held)
        return asked

    def _features(self, multiplier: float) -> _Features:
        worth = self._scores - multiplier * self._costs
        columns = np.arange(len(self._costs))
        features = {}
        for mask in self._masks(0, self._k_max - 1):
            heard = (mask >> columns & 1).astype(bool)
            lead, second = self._sets.leading[mask], self._sets.second[mask]
            situation = Situation(self._scores, worth, heard, lead, second)
            features[mask] = {e: situation.features(e) for e in situation.unheard}
        return features

    def _weights(self, features: _Features, multiplier: float, rows: BoolArray) -> FloatArray:
        """(n_experts, n_features) by backward induction over the marked queries."""
        prices = multiplier * self._costs
        n_experts, n_features = len(prices), features[0][0].shape[1]
        value = {mask: self._sets.leading[mask][rows] for mask in self._masks(1, self._k_max)}
        gram = np.tile(RIDGE * np.eye(n_features), (n_experts, 1, 1))
        slope = np.zeros((n_experts, n_features))
        weights: FloatArray = np.zeros((n_experts, n_features))
        for size in reversed(range(self._k_max)):
            of_size = {
                mask: {e: x[rows] for e, x in features[mask].items()}
                for mask in self._masks(size, size)
            }
            for mask, of_experts in of_size.items():
                for e, x in of_experts.items():
                    gram[e] += x.T @ x
                    slope[e] += x.T @ value[mask | 1 << e]
            weights = np.linalg.solve(gram, slope[:, :, None])[:, :, 0]
            for mask, of_experts in of_size.items():
                net = np.stack([x @ weights[e] - prices[e] for e, x in of_experts.items()])
                reached = np.stack([value[mask | 1 << e] - prices[e] for e in of_experts])
                going_on = np.take_along_axis(reached, net.argmax(axis=0)[None], axis=0)[0]
                if mask:
                    stops = net.max(axis=0) <= value[mask]
                    going_on = np.where(stops, value[mask], going_on)
                value[mask] = going_on
        return weights

    def _asked(
        self, features: _Features, weights: FloatArray, multiplier: float, rows: BoolArray
    ) -> IntArray:
        """Masks of the experts asked: `PlannedVote.next` for all marked queries at once."""
        prices = multiplier * self._costs
        places = np.flatnonzero(rows)
        asked, live = np.zeros(len(places), dtype=np.intp), np.ones(len(places), dtype=bool)
        for _ in range(self._k_max):
            going = np.zeros_like(live)
            after = asked.copy()
            for mask in np.unique(asked[live]).tolist():
                at = np.flatnonzero(live & (asked == mask))
                experts = list(features[mask])
                net = np.stack(
                    [features[mask][e][places[at]] @ weights[e] - prices[e] for e in experts]
                )
                lead = self._sets.leading[mask][places[at]]
                going[at] = (net.max(axis=0) > lead) | (mask == 0)
                after[at] |= np.left_shift(1, np.array(experts)[net.argmax(axis=0)])
            live = going
            asked = np.where(live, after, asked)
        return asked

    def _masks(self, least: int, most: int) -> list[int]:
        """The sets of so many experts."""
        columns = range(len(self._costs))
        return [
            sum(1 << e for e in chosen)
            for size in range(least, most + 1)
            for chosen in combinations(columns, size)
        ]
