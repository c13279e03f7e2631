"""Which experts a priced vote should consider, and how it would fare: found on recorded answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from coe.errors import ConfigError
from coe.outcomes import BoolArray, IntArray
from coe.routers.policies.elections import Elections, SetsHeard
from coe.routers.policies.priced_vote import PricedVote
from coe.routing import FloatArray

MULTIPLIERS = tuple(float(f"{m:.3g}") for m in (0.0, *np.geomspace(2e-2, 3.0, 80)))
"""In scores per mean cost of the pool's experts, so that the grid fits any unit."""
PATIENCES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
COARSE = 4
"""Every so many multipliers are tried while experts are chosen."""
N_CONSIDERED = 9
LONGEST = 5
"""Experts that a search looks at, and how many of them it takes at most."""


class PricedElections:
    """Every set of a few experts, heard on every query: sets are bit masks of their columns."""

    def __init__(
        self, elections: Elections, scores: FloatArray, costs: FloatArray, k_max: int
    ) -> None:
        n_experts = scores.shape[1]
        self.scores = scores
        self.costs = costs
        self._k_max = min(k_max, n_experts)
        self._sets = SetsHeard.of(elections, n_experts, self._k_max)

    def best(
        self, allowed: Sequence[int], policies: Sequence[PricedVote], budget: float
    ) -> tuple[float, PricedVote] | None:
        """The best mean outcome within a mean cost, the earliest policy of equals."""
        best: tuple[float, PricedVote] | None = None
        for policy in policies:
            quality, spent = self.fared(policy, allowed)
            if spent <= budget and (best is None or quality > best[0]):
                best = (quality, policy)
        return best

    def fared(self, policy: PricedVote, allowed: Sequence[int]) -> tuple[float, float]:
        """Mean outcome and mean cost of a policy that considers these columns."""
        asked = self._asked(policy, allowed)
        marks = asked[:, None] >> np.arange(len(self.costs)) & 1
        won = self._sets.won[asked, np.arange(len(asked))]
        return float(won.mean()), float((marks @ self.costs).mean())

    def _asked(self, policy: PricedVote, allowed: Sequence[int]) -> IntArray:
        """(n,) masks of the experts asked: `PricedVote.next` for all queries at once."""
        n, n_experts = self.scores.shape
        columns = np.arange(n_experts)
        worth = np.full((n, n_experts), -np.inf)
        worth[:, allowed] = (self.scores - policy.multiplier * self.costs)[:, allowed]
        asked, live = np.zeros(n, dtype=np.intp), np.ones(n, dtype=bool)
        for _ in range(min(policy.k_max, self._k_max, len(allowed))):
            left = np.where(asked[:, None] >> columns & 1, -np.inf, worth)
            highest = left.max(axis=1)
            led = self._sets.leading[asked, np.arange(n)]
            live &= ~((led > 0) & (highest <= led))
            chosen = _chosen(left, self.costs, policy)
            asked = np.where(live, asked | (1 << chosen), asked)
        return asked


def _chosen(left: FloatArray, costs: FloatArray, policy: PricedVote) -> IntArray:
    """(n,) the scout worth most, else the worthiest; `left` is -inf where there is nobody."""
    worthiest, highest = left.argmax(axis=1), left.max(axis=1)
    is_scout = np.isfinite(left) & (left >= (highest - policy.patience)[:, None])
    is_scout &= costs <= policy.scout_share * costs[worthiest][:, None]
    scout = np.where(is_scout, left, -np.inf).argmax(axis=1)
    chosen: IntArray = np.where(is_scout.any(axis=1), scout, worthiest)
    return chosen


def priced_votes(
    cost: str, costs: FloatArray, k_max: int, fixed: Mapping[str, float], every: int = 1
) -> list[PricedVote]:
    """The grid that is searched; `fixed` has options that were given."""
    unit = 1.0 / max(float(costs.mean()), 1e-12)
    multipliers = [float(f"{m * unit:.4g}") for m in MULTIPLIERS[::every]]
    patiences = (fixed["patience"],) if "patience" in fixed else PATIENCES[:: min(every, 2)]
    return [
        PricedVote(cost, multiplier, patience, k_max=k_max)
        for multiplier, patience in product(multipliers, patiences)
    ]


def considered(scores: FloatArray, costs: FloatArray, n: int = N_CONSIDERED) -> tuple[int, ...]:
    """The columns that are the worthiest most often, over queries and multipliers."""
    unit = 1.0 / max(float(costs.mean()), 1e-12)
    counts = np.zeros(len(costs), dtype=np.intp)
    for multiplier in MULTIPLIERS[::COARSE]:
        worthiest = (scores - multiplier * unit * costs).argmax(axis=1)
        counts += np.bincount(worthiest, minlength=len(costs))
    return tuple(sorted(np.argsort(-counts, kind="stable")[:n].tolist()))


def grown_chain(
    priced: PricedElections, policies: Sequence[PricedVote], budget: float
) -> tuple[int, ...]:
    """Columns added one by one while the best policy within the budget gets better.

    Greedy, from the cheapest expert on. Raises `ConfigError` if that one alone costs too much.
    """
    cheapest = int(np.argmin(priced.costs))
    chain: tuple[int, ...] = (cheapest,)
    found = priced.best(chain, policies, budget)
    if found is None:
        raise ConfigError(
            f"a budget of {budget:g} is below {priced.costs[cheapest]:g}, the cost of the "
            "cheapest expert; raise the budget",
            key="budget",
        )
    quality = found[0]
    while len(chain) < LONGEST:
        grown = [(*chain, e) for e in range(len(priced.costs)) if e not in chain]
        fared = [priced.best(each, policies, budget) for each in grown]
        qualities = [-1.0 if each is None else each[0] for each in fared]
        if not qualities or max(qualities) <= quality:
            break
        at = int(np.argmax(qualities))
        chain, quality = grown[at], qualities[at]
    return tuple(sorted(chain))


def drawn_sets(
    n: int, n_experts: int, most: int, seed: int = 0, n_sets: int = 8
) -> list[BoolArray]:
    """(n, n_experts) marks of random experts, 1 to `most` of them on each query."""
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(n_sets):
        ranks = rng.random((n, n_experts)).argsort(axis=1).argsort(axis=1)
        sets.append(ranks < rng.integers(1, most + 1, n)[:, None])
    return sets
