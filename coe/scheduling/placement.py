"""Which expert lives on which device, and who of them stays resident.

Every expert has one home, a placement of its tenant, and is either kept resident there or
swapped: all swapped experts of a device share the room that the kept ones leave, so those that
are recruited together, or take turns otherwise, push each other out. In seconds an hour:

    busy[d]   = service of all experts at home on d
              + sum over pairs swapped on d of  turns * (load_s of one + of the other) / 2
    objective = max busy[d] + sum of all swapping

The room for swapped experts counts as room for one at a time. It is the whole-model analogue of
MoETuner (arXiv 2502.06643), which balances token load and affinity between layers, and of ExFlow
(arXiv 2401.08383), which keeps experts that follow one another together; here text between
devices costs nothing and memory everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from coe.errors import UnknownExpert
from coe.scheduling.expert_trace import ExpertTrace
from coe.scheduling.terms import Site, Tenant

EPSILON_GIB = 1e-9

Replicas = Mapping[str, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for in an hour."""

    per_hour: Mapping[str, float]
    """Requests of each expert; none if it is not named."""
    turns: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """How often one of two experts would be loaded if the two shared room for one: recruited
    together, or asked for one after the other. Each pair once, in any order."""

    @classmethod
    def of(cls, trace: ExpertTrace) -> Demand:
        """What a trace shows, scaled to an hour."""
        counts = [0] * len(trace.expert_ids)
        for expert in trace.experts.tolist():
            counts[expert] += 1
        per_hour = {e: n / trace.hours for e, n in zip(trace.expert_ids, counts, strict=True)}
        return cls(per_hour, {pair: n / trace.hours for pair, n in trace.turns().items()})


@dataclass(frozen=True, slots=True)
class Home:
    """Where one expert lives."""

    devices: tuple[str, ...]
    is_kept: bool
    """Always resident; else it shares the room left over."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A home for every expert with weights of its own."""

    homes: Mapping[str, Home]
    busy_s: Mapping[str, float]
    """Seconds an hour that each device serves and swaps."""
    swap_s: float
    """Seconds an hour that all devices swap."""
    bound_s: float
    """No placement has a smaller objective."""
    replicas: Replicas = field(default_factory=dict)
    """Further placements of an expert, all kept, that share its requests evenly."""

    @property
    def objective_s(self) -> float:
        return max(self.busy_s.values()) + self.swap_s

    @property
    def gap(self) -> float:
        """Objective over its bound, less one: 0 is proven best. Replicas can go below."""
        if self.objective_s <= self.bound_s or self.objective_s == 0.0:
            return 0.0
        return self.objective_s / self.bound_s - 1.0 if self.bound_s > 0.0 else math.inf

    def rows(self) -> list[tuple[str, ...]]:
        """A table to print, its head first: a line for each device."""
        head = ("device", "kept", "swapped", "busy s/h")
        rows: list[tuple[str, ...]] = [head]
        for device, busy_s in self.busy_s.items():
            here = {e: h for e, h in self.homes.items() if device in h.devices}
            kept = [e for e, home in here.items() if home.is_kept]
            kept += [e for e, more in self.replicas.items() if any(device in d for d in more)]
            swapped = [e for e, home in here.items() if not home.is_kept]
            rows.append((device, ", ".join(kept), ", ".join(swapped), f"{busy_s:.0f}"))
        return rows


class Ledger:
    """Counts what homes cost and checks that they fit; adapters count as their base."""

    def __init__(self, site: Site, demand: Demand) -> None:
        """Raises `UnknownExpert` if the demand names an expert that the site has not."""
        self.site = site
        self.tenants = {tenant.expert_id: tenant for tenant in site.hosts}
        self._room = dict(site.devices)
        for tenant in site.hosts:
            for device in tenant.placements[0] if tenant.pinned else ():
                self._room[device] -= tenant.gib
        bases = {t.expert_id: t.base or t.expert_id for t in site.tenants}
        for expert_id in [*demand.per_hour, *(e for pair in demand.turns for e in pair)]:
            if expert_id not in bases:
                raise UnknownExpert(expert_id, bases)
        self.work_s = dict.fromkeys(self.tenants, 0.0)
        for expert_id, n in demand.per_hour.items():
            tenant = self.tenants[bases[expert_id]]
            self.work_s[tenant.expert_id] += n * tenant.service_s / tenant.max_in_flight
        self.swaps_s: dict[str, dict[str, float]] = {e: {} for e in self.tenants}
        """Seconds an hour that each two cost if they are swapped on one device."""
        for (one, other), n in demand.turns.items():
            self._take_turns(bases[one], bases[other], n)

    def _take_turns(self, one: str, other: str, n: float) -> None:
        if one == other:
            return
        each_s = (self.tenants[one].costs.load_s + self.tenants[other].costs.load_s) / 2
        for here, there in ((one, other), (other, one)):
            self.swaps_s[here][there] = self.swaps_s[here].get(there, 0.0) + n * each_s

    def options(self, tenant: Tenant) -> list[Home]:
        """Every home it fits in. Pinned ones are kept, those that may not be resident with
        somebody else are not: who is kept would shut out the other for good.
        """
        placements = [
            devices
            for devices in self.site.placements(tenant)
            if tenant.pinned or all(tenant.gib <= self._room[d] + EPSILON_GIB for d in devices)
        ]
        kept = [Home(devices, True) for devices in placements]
        swapped = [Home(devices, False) for devices in placements]
        if tenant.pinned:
            return kept
        rivals = (t for t in self.tenants.values() if t is not tenant and t.apart & tenant.apart)
        return swapped if any(rivals) else [*kept, *swapped]

    def swapping_s(self, homes: Mapping[str, Home], device: str) -> float:
        swapped = [e for e, h in homes.items() if device in h.devices and not h.is_kept]
        here = set(swapped)
        return sum(s for e in swapped for f, s in self.swaps_s[e].items() if f in here and e < f)

    def busy(
        self, homes: Mapping[str, Home], replicas: Replicas | None = None
    ) -> tuple[dict[str, float], float]:
        """Busy seconds an hour of each device, and swapping in all."""
        busy = dict.fromkeys(self.site.devices, 0.0)
        for expert_id, home in homes.items():
            everywhere = [home.devices, *(replicas or {}).get(expert_id, ())]
            for devices in everywhere:
                for device in devices:
                    busy[device] += self.work_s[expert_id] / len(everywhere)
        swapping = {device: self.swapping_s(homes, device) for device in busy}
        return {d: busy[d] + swapping[d] for d in busy}, sum(swapping.values())

    def objective_s(self, homes: Mapping[str, Home]) -> float:
        busy, swap_s = self.busy(homes)
        return max(busy.values()) + swap_s

    def excess_gib(self, homes: Mapping[str, Home]) -> float:
        """GiB by which devices are too small: 0 if all fits."""
        return sum(max(0.0, -self.free_gib(homes, device)) for device in self.site.devices)

    def free_gib(self, homes: Mapping[str, Home], device: str) -> float:
        """What is left beside the kept experts of a device and the largest swapped one."""
        kept = largest = 0.0
        for expert_id, home in homes.items():
            if device in home.devices:
                gib = self.tenants[expert_id].gib
                kept, largest = (kept + gib, largest) if home.is_kept else (kept, max(largest, gib))
        free = self.site.devices[device] - kept - largest
        return 0.0 if -EPSILON_GIB < free < 0.0 else free

    def bound_s(self) -> float:
        """No homes have a smaller objective: the mean work, or the longest."""
        spans = {e: min(len(d) for d in self.site.placements(t)) for e, t in self.tenants.items()}
        total = sum(self.work_s[e] * spans[e] for e in self.tenants)
        return max(total / len(self.site.devices), *self.work_s.values())

    def placed(
        self, homes: Mapping[str, Home], bound_s: float, replicas: Replicas | None = None
    ) -> Placement:
        """A placement with its costs, experts in the order of the site."""
        busy, swap_s = self.busy(homes, replicas)
        ordered = {expert_id: homes[expert_id] for expert_id in self.tenants}
        return Placement(ordered, busy, swap_s, bound_s, replicas or {})
