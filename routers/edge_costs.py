"""What a set of edge experts costs in delay and energy, and the budgets it is held to.

The system model of MoE² (arXiv 2501.09410). Only that delay is computation + transmission +
aggregation, and that energy and the latency of each application class are budgeted, is confirmed;
the formulas are our reading, because the paper's own equations could not be read. Every expert
of a set S is charged for every query (the worst case), which makes both costs grow with S, as
exact selection needs. What a Top-k gate then really calls costs less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np

from coe.errors import ConfigError, RoutingError, nearest
from coe.experts import ExpertPool
from coe.outcomes import BoolArray, FloatArray, IntArray

ROUNDING = 1e-9
"""Share of a budget that rounding may exceed it by."""


def shannon_bits_per_s(
    bandwidth_hz: float, transmit_watts: float, gain: float, noise_watts: float
) -> float:
    """W log2(1 + P h / N0): the rate of a link that was not measured."""
    return bandwidth_hz * log2(1.0 + transmit_watts * gain / noise_watts)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeRates:
    """Measured speeds of each expert and of the link to its server, in the pool's order."""

    prefill_tokens_per_s: FloatArray
    """(n_experts,)"""
    decode_tokens_per_s: FloatArray
    """(n_experts,)"""
    link_bits_per_s: float = float("inf")
    transmit_watts: float = 0.0
    bits_per_token: float = 32.0


@dataclass(frozen=True, slots=True, eq=False)
class EdgeCosts:
    """Delay and energy of each expert on each query."""

    expert_ids: tuple[str, ...]
    delay_s: FloatArray
    """(n_queries, n_experts) computation, or one row that holds for every query."""
    energy_j: FloatArray
    """Computation, shaped as `delay_s` may be."""
    transmission_s: float = 0.0
    """There and back, the same for every expert."""
    transmission_j: float = 0.0
    """Of one expert's transmission."""
    aggregation_s: float = 0.0
    """The a of a + b|S|."""
    aggregation_s_per_expert: float = 0.0
    """The b of a + b|S|."""

    def __post_init__(self) -> None:
        for name in ("delay_s", "energy_j"):
            array = getattr(self, name)
            if array.ndim != 2 or array.shape[1] != len(self.expert_ids):
                raise ConfigError(
                    f"has shape {array.shape}; give (n_queries or 1, {len(self.expert_ids)})",
                    key=name,
                )
            if not np.isfinite(array).all() or (array < 0).any():
                raise ConfigError("must be finite and not negative", key=name)
        scalars = ("transmission_s", "transmission_j", "aggregation_s", "aggregation_s_per_expert")
        for name in scalars:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError("must be finite and not negative", key=name)

    @classmethod
    def of_pool(
        cls,
        pool: ExpertPool,
        rates: EdgeRates,
        tokens: FloatArray,
        aggregation_s: tuple[float, float] = (0.0, 0.0),
    ) -> EdgeCosts:
        """From the pool's watts, measured rates and `tokens` of (n_queries, 2): prompt, answer.

        Transmission is charged for the mean query; `aggregation_s` holds a and b of a + b|S|.
        """
        unknown = [expert.id for expert in pool if expert.footprint.watts <= 0]
        if unknown:
            raise ConfigError(
                f"no watts are known for {', '.join(unknown)}; measure and write them down",
                key="footprint.watts",
            )
        watts = np.array([expert.footprint.watts for expert in pool])
        delay_s = (
            tokens[:, :1] / rates.prefill_tokens_per_s + tokens[:, 1:] / rates.decode_tokens_per_s
        )
        mean_tokens = float(tokens.sum(axis=1).mean())
        transmission_s = mean_tokens * rates.bits_per_token / rates.link_bits_per_s
        return cls(
            pool.ids,
            delay_s,
            delay_s * watts,
            transmission_s,
            rates.transmit_watts * transmission_s,
            *aggregation_s,
        )

    def set_delay_s(self, members: BoolArray) -> FloatArray:
        """(n_queries or 1,) delay of asking all members at once: the slowest, then aggregation."""
        slowest = self.delay_s[:, members].max(axis=1) + self.transmission_s
        delay: FloatArray = slowest + self._aggregation_s(int(members.sum()))
        return delay

    def set_energy_j(self, members: BoolArray) -> FloatArray:
        """(n_queries or 1,) energy of asking all members."""
        energy: FloatArray = (self.energy_j + self.transmission_j)[:, members].sum(axis=1)
        return energy

    def _aggregation_s(self, n_members: int) -> float:
        return self.aggregation_s + self.aggregation_s_per_expert * n_members


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a set of experts may cost. Nothing given is nothing limited."""

    energy_j: float | None = None
    """Mean over queries."""
    delay_s: Mapping[str, float] = field(default_factory=dict)
    """Mean over the queries of each application class, by class."""
    delay_all_s: float | None = None
    """Mean over all queries."""


class Limits:
    """Budgets over a set of experts: what a set uses of each, and whether it keeps to all."""

    def __init__(
        self, costs: EdgeCosts, budgets: Budgets, classes: Sequence[str | None] = ()
    ) -> None:
        """`classes` names each query's class; needed where `budgets.delay_s` has entries."""
        self.expert_ids = costs.expert_ids
        self._energy_j = (costs.energy_j + costs.transmission_j).mean(axis=0)  # (n_experts,)
        self._has_energy = budgets.energy_j is not None
        self._fixed_s = costs.transmission_s + costs.aggregation_s
        self._per_expert_s = costs.aggregation_s_per_expert
        groups, names, limits = _delay_groups(budgets, classes, len(costs.delay_s))
        self._starts = np.cumsum([0, *(len(g) for g in groups[:-1])])
        self._sizes = np.array([len(group) for group in groups])
        # (n_rows, n_experts): each budget's queries one after the other.
        rows = np.concatenate(groups) if groups else np.zeros(0, np.intp)
        self._delay_s = costs.delay_s[rows]
        self.names = (*(("energy_j",) if self._has_energy else ()), *names)
        energy = [] if budgets.energy_j is None else [budgets.energy_j]
        self.limits = np.array([*energy, *limits])
        """(n_limits,)"""

    @property
    def n_experts(self) -> int:
        return len(self.expert_ids)

    def admits(self, members: BoolArray) -> bool:
        return bool(self.keeps(self.usage(members)))

    def keeps(self, usage: FloatArray) -> BoolArray:
        """Whether each last-axis row of usages stays within every budget."""
        within: BoolArray = np.asarray((usage <= self.limits * (1 + ROUNDING)).all(axis=-1))
        return within

    def usage(self, members: BoolArray) -> FloatArray:
        """(n_limits,) what a set uses of each budget; the empty set uses nothing."""
        if not members.any():
            return np.zeros(len(self.limits))
        energy = self._energy_j[members].sum()
        delays = self._delay_means(self._delay_s[:, members].max(axis=1, keepdims=True))[:, 0]
        delays = delays + self._fixed_s + self._per_expert_s * members.sum()
        return np.concatenate(([energy], delays) if self._has_energy else ([], delays))

    def usage_with_each(self, members: BoolArray) -> FloatArray:
        """(n_experts, n_limits) usage of the set with each expert added, in one pass."""
        energy = self._energy_j[members].sum() + np.where(members, 0.0, self._energy_j)
        slowest = self._delay_s
        if members.any():
            slowest = np.maximum(slowest, slowest[:, members].max(axis=1, keepdims=True))
        sizes = members.sum() + ~members
        delays = self._delay_means(slowest) + self._fixed_s + self._per_expert_s * sizes
        return np.vstack([energy, delays] if self._has_energy else [delays]).T

    def affordable(self) -> BoolArray:
        """(n_experts,) the experts that keep to every budget alone; no other can be in a set.

        Raises `RoutingError` if there is none: it names the budget and the least it must be.
        """
        alone = self.usage_with_each(np.zeros(self.n_experts, bool))
        kept = self.keeps(alone)
        if not kept.any():
            raise RoutingError(self._complaint(alone))
        return kept

    def _delay_means(self, delays: FloatArray) -> FloatArray:
        """(n_rows, n) delays to (n_delay_limits, n) means."""
        if not len(self._sizes):
            return np.zeros((0, delays.shape[1]))
        means: FloatArray = np.add.reduceat(delays, self._starts) / self._sizes[:, None]
        return means

    def _complaint(self, alone: FloatArray) -> str:
        least = alone.argmin(axis=0)
        smallest = alone[least, np.arange(len(self.limits))]
        short = [
            f"{name} {limit:g} is below the least any expert needs, {low:g} ({self.expert_ids[i]})"
            for name, limit, low, i in zip(self.names, self.limits, smallest, least, strict=True)
            if low > limit * (1 + ROUNDING)
        ]
        if short:
            return f"no set of experts fits: {'; '.join(short)}; raise the budget to at least that"
        factors = (alone / np.maximum(self.limits, 1e-300)).max(axis=1)
        best = int(factors.argmin())
        needs = ", ".join(f"{n} {u:g}" for n, u in zip(self.names, alone[best], strict=True))
        return (
            "no expert keeps to all budgets at once, though each budget alone can be kept; the "
            f"nearest is {self.expert_ids[best]!r}, which needs {needs}"
        )


def _delay_groups(
    budgets: Budgets, classes: Sequence[str | None], n_rows: int
) -> tuple[list[IntArray], list[str], list[float]]:
    """The query rows, name and limit of each delay budget."""
    groups: list[IntArray] = []
    names: list[str] = []
    limits: list[float] = []
    if budgets.delay_all_s is not None:
        groups.append(np.arange(n_rows))
        names.append("delay_all_s")
        limits.append(budgets.delay_all_s)
    if budgets.delay_s and n_rows not in (1, len(classes)):
        raise ConfigError(f"{len(classes)} classes for {n_rows} queries", key="classes")
    for name, limit in budgets.delay_s.items():
        groups.append(np.zeros(1, np.intp) if n_rows == 1 else _rows_of(name, classes))
        names.append(f"delay_s[{name}]")
        limits.append(limit)
    return groups, names, limits


def _rows_of(name: str, classes: Sequence[str | None]) -> IntArray:
    rows = np.array([i for i, of in enumerate(classes) if of == name], np.intp)
    if not len(rows):
        guess = nearest(name, {of for of in classes if of is not None})
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"no query is of class {name!r}{hint}", key="delay_s")
    return rows
