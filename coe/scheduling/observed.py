"""Demand as it is seen: who was asked for, the more recent the more it counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from coe.scheduling.placement import Demand

TOGETHER_S = 0.01
"""Requests that come so soon one after the other count as recruited together."""

Asked = Sequence[tuple[float, str]]
"""When and who, in the order in which they came; seconds of one clock."""


def observed_demand(asked: Asked, now: float, half_life_s: float) -> Demand:
    """An hour's demand, requests of one half-life ago counting half.

    As `Demand.of` a trace, but for the decay: the rate is taken over a period whose seconds count
    by the same weights.
    """
    if not asked:
        return Demand({})
    counts = _Counts()
    for at_s, together in _queries(asked):
        counts.add(together, 0.5 ** ((now - at_s) / half_life_s))
    scale = 3600.0 / _counted_s(now - asked[0][0], half_life_s)
    return Demand(
        {expert_id: n * scale for expert_id, n in counts.asked.items()},
        {pair: n * scale for pair, n in counts.turns.items()},
    )


class _Counts:
    """Weights of requests, and of the turns that each two experts take."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.turns: dict[tuple[str, str], float] = {}
        self._there: dict[tuple[str, str], str | None] = {}
        """Which of two would be resident if they shared room for one; None: whichever suits."""

    def add(self, together: set[str], weight: float) -> None:
        known = self.asked.keys() - together
        for one, other in combinations(sorted(together), 2):
            self._both(one, other, weight)
        for expert_id in together:
            for other in known:
                self._one(expert_id, other, weight)
        for expert_id in together:
            self.asked[expert_id] = self.asked.get(expert_id, 0.0) + weight

    def _both(self, one: str, other: str, weight: float) -> None:
        """Their order is free, so that the other one is there afterwards than was before."""
        pair = (one, other)
        # Only one of them was asked for before the two ever met.
        there = self._there.get(pair, next((e for e in pair if e in self.asked), None))
        self.turns[pair] = self.turns.get(pair, 0.0) + weight
        self._there[pair] = None if there is None else one if there == other else other

    def _one(self, asked: str, other: str, weight: float) -> None:
        pair = (asked, other) if asked < other else (other, asked)
        # As above: until they meet, the other one is there.
        if self._there.get(pair, other) == other:
            self.turns[pair] = self.turns.get(pair, 0.0) + weight
        self._there[pair] = asked


def _queries(asked: Asked) -> Iterator[tuple[float, set[str]]]:
    """Requests that came together, as one query."""
    began_s, together = asked[0][0], {asked[0][1]}
    for at_s, expert_id in asked[1:]:
        if at_s - began_s > TOGETHER_S or expert_id in together:
            yield began_s, together
            began_s, together = at_s, set()
        together.add(expert_id)
    yield began_s, together


def _counted_s(length_s: float, half_life_s: float) -> float:
    """Length of a period whose seconds count by their weights; at least a second."""
    decay = math.log(2.0) / half_life_s
    return max(1.0, -math.expm1(-decay * length_s) / decay)
