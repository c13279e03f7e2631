"""Policies that recruit more experts the less certain the scores are.

`TopP` is the routing of "Harder Tasks Need More Experts" (arXiv 2403.07652) with whole models
for experts; the strict comparison and the crossing expert being kept are those of the released
code. `EntropySwitch` follows DynMoLE (arXiv 2504.00661). Its routing rule was not readable in
the original: that a high Tsallis entropy calls everybody and a lower one a top-p set is taken
from memory of the paper, the third branch for certain queries is ours, and so are all limits,
which therefore are shares of the largest entropy and not the paper's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coe.errors import ConfigError
from coe.experts import ExpertPool
from coe.routers.policies.ranking import (
    above_zero,
    at_least,
    best_first,
    named,
    proportions,
    softmax,
    within_unit,
)
from coe.routing import FloatArray

Shares = Literal["softmax", "proportions"]
_SHARES: Mapping[str, Callable[[FloatArray, float], FloatArray]] = {
    "softmax": softmax,
    "proportions": proportions,
}


@dataclass(frozen=True, slots=True)
class TopP:
    """The fewest best experts whose shares together exceed p; all if they never do."""

    p: float = 0.4
    k_max: int | None = None
    """Most experts to recruit; None sets no limit."""
    temperature: float = 1.0
    """Of the shares. Probabilities of success lie so close that 1 makes them nearly even."""
    shares: Shares = "softmax"

    def __post_init__(self) -> None:
        within_unit("p", self.p)
        above_zero("temperature", self.temperature)
        at_least("k_max", 1 if self.k_max is None else self.k_max, 1)
        if self.shares not in _SHARES:
            raise ConfigError(f"{self.shares!r} is none of {', '.join(_SHARES)}", key="shares")

    @property
    def name(self) -> str:
        return f"top-p-{self.p:g}"

    def distribution(self, scores: FloatArray) -> FloatArray:
        """(n_experts,) the shares that are added up."""
        return _SHARES[self.shares](scores, self.temperature)

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        shares = self.distribution(scores)
        order = best_first(scores)
        crossed = np.flatnonzero(np.cumsum(shares[order]) > self.p)
        n_needed = int(crossed[0]) + 1 if len(crossed) else len(order)
        return named(order[: min(n_needed, self.k_max or n_needed)], pool)


def tsallis_entropy(shares: FloatArray, q: float) -> float:
    """(1 - sum of shares to the power q) / (q - 1); Shannon's in nats at q = 1."""
    if q == 1.0:
        used = shares[shares > 0]
        return float(-(used * np.log(used)).sum()) + 0.0
    return float((1.0 - (shares**q).sum()) / (q - 1.0))


@dataclass(frozen=True, slots=True)
class EntropySwitch:
    """One expert if certain, the top-p set if not quite, otherwise all or the fallback expert.

    1. Entropy up to `low`: the best expert alone.
    2. Up to `high`: the top-p set.
    3. Above: the pool's fallback expert if `falls_back` and it has one, else the `k_max` best.
    """

    low: float
    """Share of the largest entropy that this pool allows, 0 to 1."""
    high: float
    top_p: TopP = TopP()
    """Also gives the distribution and `k_max`, whose None means everybody."""
    q: float = 1.1
    """Between 1 and 2 the long tail of a large pool counts less than in Shannon's entropy."""
    falls_back: bool = False

    def __post_init__(self) -> None:
        within_unit("low", self.low)
        within_unit("high", self.high)
        above_zero("q", self.q)
        if self.low > self.high:
            raise ConfigError(f"low {self.low:g} is above high {self.high:g}", key="low")

    @property
    def name(self) -> str:
        return f"entropy-switch-{self.low:g}-{self.high:g}"

    def entropy(self, scores: FloatArray) -> float:
        """Of the scores' shares, over the entropy of even shares; 0 for a single expert."""
        n = len(scores)
        if n == 1:
            return 0.0
        even = tsallis_entropy(np.full(n, 1.0 / n), self.q)
        return tsallis_entropy(self.top_p.distribution(scores), self.q) / even

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        entropy = self.entropy(scores)
        order = best_first(scores)
        if entropy <= self.low:  # 1
            return named(order[:1], pool)
        if entropy <= self.high:  # 2
            return self.top_p.choose(scores, pool)
        if self.falls_back and pool.fallback_id is not None:  # 3
            return (pool.fallback_id,)
        return named(order[: self.top_p.k_max], pool)
