"""What a scheduler is told: devices, experts as tenants of memory, tickets, rules.

Values only, checked where they are made. Times are seconds of one monotonic clock that the
caller owns; sizes are GiB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations

from coe.errors import ConfigError, UnknownExpert


class Residency(Enum):
    """Where an expert's weights are, or which way they are moving."""

    DISK = "disk"
    ASLEEP = "asleep"
    """In host memory; waking is quicker than loading."""
    LOADING = "loading"
    """On the way to a device, from disk or from host memory."""
    AWAKE = "awake"
    LEAVING = "leaving"
    """On the way off a device or out of host memory. What it held counts until it is gone."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request's claim on one expert."""

    id: str
    """Unique among the tickets that are waiting or granted."""
    expert_id: str
    priority: int = 0
    """Higher goes first within an expert and weighs double a step between experts."""
    deadline_s: float | None = None
    """The clock time by which it has to be finished; None means it may take what it takes."""

    @property
    def weight(self) -> float:
        return 2.0 ** max(-10, min(10, self.priority))


@dataclass(frozen=True, slots=True)
class SwapCosts:
    """Seconds of each transition. First guesses: what is measured replaces them."""

    load_s: float = 1.0
    """Disk to device."""
    wake_s: float = 0.3
    """Host memory to device."""
    sleep_s: float = 0.3
    """Device to host memory."""
    evict_s: float = 0.1
    """Device or host memory to disk."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One expert as memory and time see it."""

    expert_id: str
    gib: float
    """Held on each device of a placement while awake, loading or leaving."""
    placements: tuple[tuple[str, ...], ...] = ()
    """The sets of devices it can live on, best first; several devices in one set: it spans them.
    Empty means any single device."""
    asleep_gib: float | None = None
    """Host memory held while asleep; None means it cannot sleep."""
    residue_gib: float = 0.0
    """What stays on each device while it is asleep."""
    costs: SwapCosts = field(default_factory=SwapCosts)
    service_s: float = 1.0
    """First guess of one request's service."""
    max_in_flight: int = 8
    max_queued: int = 100_000
    """Tickets that may wait for it; further ones are refused."""
    pinned: bool = False
    """Loaded at the start and never evicted. Needs exactly one placement."""
    apart: frozenset[str] = frozenset()
    """Labels of groups: two experts with a label in common are never on devices together."""
    base: str | None = None
    """The expert whose weights it is an adapter on. It shares the base's queue, limits and
    residency, so the other fields say nothing, and moving between the two is no swap."""

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, value, least in (
                ("gib", self.gib, 0),
                ("residue_gib", self.residue_gib, 0),
                ("max_in_flight", self.max_in_flight, 1),
                ("max_queued", self.max_queued, 1),
            )
            if not value >= least
        ]
        if wrong:
            raise ConfigError(f"{wrong[0]} of expert {self.expert_id!r} is too small")
        if self.pinned and len(self.placements) != 1:
            raise ConfigError(
                f"expert {self.expert_id!r} is pinned: name the one placement it is pinned to"
            )


@dataclass(frozen=True, slots=True)
class SwapRules:
    """When experts change places."""

    beta: float = 20.0
    """An expert that is still of use leaves once the waiting for another one, since it came,
    costs beta times what the swap costs. Smaller swaps sooner."""
    max_wait_s: float = 300.0
    """The age bound: the expert of a ticket older than this comes next, whatever else waits."""
    quantum_s: float = 30.0
    """Longest visit that the age bound does not cut. A visit serves those who waited when it
    began, but never longer than the larger of this and `quantum_swaps` of its own swaps."""
    quantum_swaps: float = 10.0
    prefetch_ratio: float = math.inf
    """An idle expert makes room for one nobody waits for yet if that is so much more in demand.
    Infinite prefetches into free memory only: swapping on a guess gained nothing measurable."""
    prefetches: bool = True
    """Whether anybody comes that nobody waits for."""
    rate_window_s: float = 120.0
    """Arrivals are forgotten with this time constant."""
    max_queued: int = 1_000_000
    """Tickets that may wait in all; further ones are refused."""
    backoff_s: float = 1.0
    """Pause after a failed load; doubles with each further failure."""
    max_backoff_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """The memory there is and the experts that share it."""

    devices: Mapping[str, float]
    """GiB that may be held on each device."""
    tenants: tuple[Tenant, ...]
    host_gib: float = 0.0
    """Host memory for experts that are asleep."""

    def __post_init__(self) -> None:
        known = {tenant.expert_id: tenant for tenant in self.tenants}
        if len(known) != len(self.tenants):
            raise ConfigError("expert ids must be unique")
        for tenant in self.tenants:
            if tenant.base is not None:
                if tenant.base not in known:
                    raise UnknownExpert(tenant.base, known)
                if known[tenant.base].base is not None:
                    raise ConfigError(f"the base of {tenant.expert_id!r} is itself an adapter")
        self._check_room()
        self._check_apart()

    def placements(self, tenant: Tenant) -> tuple[tuple[str, ...], ...]:
        """Every set of devices the tenant can live on."""
        return tenant.placements or tuple((device,) for device in self.devices)

    @property
    def hosts(self) -> tuple[Tenant, ...]:
        """The tenants with weights of their own: all but adapters."""
        return tuple(tenant for tenant in self.tenants if tenant.base is None)

    def _check_room(self) -> None:
        free = dict(self.devices)
        for tenant in self.hosts:
            for device in (d for placement in tenant.placements for d in placement):
                if device not in free:
                    raise ConfigError(f"expert {tenant.expert_id!r} wants no device {device!r}")
            if tenant.pinned:
                for device in tenant.placements[0]:
                    free[device] -= tenant.gib
        if any(left < 0 for left in free.values()):
            raise ConfigError("the pinned experts do not fit together; pin fewer")
        for tenant in self.hosts:
            fits = (
                all(tenant.gib <= free[device] for device in placement)
                for placement in self.placements(tenant)
            )
            if not tenant.pinned and not any(fits):
                raise ConfigError(
                    f"expert {tenant.expert_id!r} needs {tenant.gib:g} GiB and fits nowhere beside "
                    f"what is pinned; raise a device's budget or unpin"
                )

    def _check_apart(self) -> None:
        for one, other in combinations(self.hosts, 2):
            if one.apart & other.apart and (one.pinned or other.pinned):
                raise ConfigError(
                    f"experts {one.expert_id!r} and {other.expert_id!r} may not live together and "
                    f"one of them is pinned, so the other could never be loaded"
                )
