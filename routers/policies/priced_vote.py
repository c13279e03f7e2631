"""A vote that asks on only while the next expert is worth its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.experts import ExpertPool
from coe.routers.policies.adaptive import IndependentVotes, VoteModel
from coe.routers.policies.budgets import cost_named, costs_of
from coe.routers.policies.ranking import at_least
from coe.routing import FloatArray, Heard

_INDEPENDENT = IndependentVotes()


@dataclass(frozen=True, slots=True)
class PricedVote:
    """Cheap experts first where they may settle it, dear ones while they are worth their price.

    An expert's worth is its score less `multiplier` times its cost.

    1. Stop once the leading answer is likelier right than the worthiest expert left is worth.
    2. Ask a scout first: an expert at most `scout_share` as dear as the worthiest and worth at
       most `patience` less, the worthiest of such. Its answer may make step 1 come true.
    3. Otherwise ask the worthiest.

    Our own rule: FrugalGPT's chain (arXiv 2305.05176) with a Lagrangian price in place of a fixed
    order. Both settings are found on training data for a budget.
    """

    cost: str
    multiplier: float
    patience: float = 0.0
    k_max: int = 5
    scout_share: float = 0.25
    model: VoteModel = _INDEPENDENT

    def __post_init__(self) -> None:
        cost_named(self.cost)
        at_least("multiplier", self.multiplier, 0.0)
        at_least("k_max", self.k_max, 1)

    @property
    def name(self) -> str:
        return f"priced-vote-{self.multiplier:g}-{self.patience:g}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        ids = pool.ids
        asked = {each.expert_id for each in heard}
        left = np.array([i for i, expert_id in enumerate(ids) if expert_id not in asked])
        if len(left) == 0 or len(heard) >= self.k_max:
            return None
        costs = costs_of(pool, self.cost)
        worth = scores - self.multiplier * costs
        worthiest = int(left[np.argmax(worth[left])])
        if heard:
            chances = self.model.chances(scores, pool, heard)
            if chances and worth[worthiest] <= max(chances.values()):  # 1
                return None
        is_scout = (costs[left] <= self.scout_share * costs[worthiest]) & (
            worth[left] >= worth[worthiest] - self.patience
        )
        scouts = left[is_scout]
        if len(scouts):  # 2
            return ids[int(scouts[np.argmax(worth[scouts])])]
        return ids[worthiest]  # 3
