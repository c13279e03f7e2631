"""Budgets: what a request may cost at most, and what requests may cost on average.

A limit per request leaves out what does not fit. A budget on average takes one price for all
queries, score - multiplier x cost, which is the Lagrangian of "best total score within the
budget": no other way of spending the same predicted sum brings a higher predicted score, up to
one query's difference. The multiplier is fitted on training scores; what it spends elsewhere
is to be measured there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError, RoutingError, nearest
from coe.experts import Expert, ExpertPool
from coe.routers.policies.ranking import at_least
from coe.routing import FloatArray, Policy

_STEPS = 100


@dataclass(frozen=True, slots=True)
class CostKind:
    """One thing a call takes, read from what the pool's file says of an expert."""

    of: Callable[[Expert], float | None]
    """None means not known."""
    key: str
    """What to set in the file to make it known."""
    adds_up: bool = True
    """Whether several calls cost their sum; calls that wait together cost the longest."""


def _usd(expert: Expert) -> float | None:
    return None if expert.price is None else expert.price.usd_per_mtok_out


COSTS: Mapping[str, CostKind] = {
    "usd_per_mtok": CostKind(_usd, "price.usd_per_mtok_out"),
    "params_active_b": CostKind(lambda expert: expert.params_active_b, "params_active_b"),
    "load_s": CostKind(lambda expert: expert.footprint.load_s, "footprint.load_s", adds_up=False),
    "gib": CostKind(lambda expert: expert.footprint.gib or None, "footprint.gib"),
    "watts": CostKind(lambda expert: expert.footprint.watts or None, "footprint.watts"),
}
"""Money, computation, latency, memory and energy, by the name that options use."""


def cost_named(name: str) -> CostKind:
    """Raises `ConfigError` with the nearest known name."""
    if name not in COSTS:
        guess = nearest(name, COSTS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown cost {name!r} (known: {', '.join(COSTS)}){hint}", key="cost")
    return COSTS[name]


def costs_of(pool: ExpertPool, name: str) -> FloatArray:
    """(n_experts,) in the pool's order; `ConfigError` names an expert whose cost is not known."""
    kind = cost_named(name)
    costs = [kind.of(expert) for expert in pool]
    for expert, cost in zip(pool, costs, strict=True):
        if cost is None:
            raise ConfigError(
                f"{name} of expert {expert.id!r} is not known; set its {kind.key}", key="cost"
            )
    return np.array(costs, dtype=float)


@dataclass(frozen=True, slots=True)
class WithinLimit:
    """The inner policy's choice, as far as one request's limit goes.

    Experts above the limit are left out before it chooses; what it chose is then kept, best
    first, while the calls fit together. Raises `RoutingError` where no expert fits.
    """

    inner: Policy
    cost: str
    limit: float

    def __post_init__(self) -> None:
        cost_named(self.cost)

    @property
    def name(self) -> str:
        return f"{self.inner.name}, {self.cost} <= {self.limit:g}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        costs = costs_of(pool, self.cost)
        fitting = np.flatnonzero(costs <= self.limit)
        if len(fitting) == 0:
            cheapest = int(np.argmin(costs))
            raise RoutingError(
                f"no expert has {self.cost} of at most {self.limit:g}; the cheapest, "
                f"{pool.experts[cheapest].id!r}, has {costs[cheapest]:g}: raise the limit"
            )
        ids = [pool.experts[i].id for i in fitting]
        chosen = self.inner.choose(scores[fitting], pool.subset(ids))
        if not COSTS[self.cost].adds_up:
            return chosen
        return _while_it_fits(chosen, dict(zip(pool.ids, costs.tolist(), strict=True)), self.limit)


def _while_it_fits(
    chosen: tuple[str, ...], costs: Mapping[str, float], limit: float
) -> tuple[str, ...]:
    kept: list[str] = []
    spent = 0.0
    for expert_id in chosen:
        if spent + costs[expert_id] <= limit:
            kept.append(expert_id)
            spent += costs[expert_id]
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Priced:
    """The inner policy, on scores less `multiplier` times the cost."""

    inner: Policy
    cost: str
    multiplier: float
    """Score that one unit of the cost is worth; `fit_multiplier` finds it for a budget."""

    def __post_init__(self) -> None:
        cost_named(self.cost)
        at_least("multiplier", self.multiplier, 0.0)

    @property
    def name(self) -> str:
        return f"{self.inner.name} - {self.multiplier:g} {self.cost}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        return self.inner.choose(scores - self.multiplier * costs_of(pool, self.cost), pool)


def fit_multiplier(scores: FloatArray, costs: FloatArray, budget: float, k: int = 1) -> float:
    """The lowest multiplier under which the k best cost at most `budget` on average.

    `scores` (n_queries, n_experts); `costs` (n_experts,) or one row for each query. Raises
    `ConfigError` if even the k cheapest experts cost more.
    """
    table = np.broadcast_to(costs, scores.shape)
    least = float(np.sort(table, axis=1)[:, :k].sum(axis=1).mean())
    if budget < least:
        raise ConfigError(
            f"a budget of {budget:g} is below {least:g}, the mean cost of the {k} cheapest; "
            "raise the budget",
            key="budget",
        )

    def spent(multiplier: float) -> float:
        order = np.argsort(multiplier * table - scores, axis=1, kind="stable")[:, :k]
        return float(np.take_along_axis(table, order, axis=1).sum(axis=1).mean())

    if spent(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while spent(high) > budget:
        low, high = high, 2.0 * high
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return high
