"""Experts on placements, as the offline planner sees them: what they hold, take and cost.

An expert that two devices serve at a time is two copies. Adapters are their base, for they come
with it. A label that keeps experts apart is a lock that only one of its holders can have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coe.errors import ConfigError, UnknownExpert
from coe.scheduling.plan import Group, Stage, Start
from coe.scheduling.terms import Site, Tenant


@dataclass(frozen=True, slots=True, order=True)
class Copy:
    """One expert on one placement."""

    expert_id: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """Some requests of one group: from one index up to but without the other."""

    expert_id: str
    requests: tuple[int, int]
    service_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """What one copy serves in one stage."""

    copy: Copy
    served: tuple[Served, ...]

    @property
    def work_s(self) -> float:
        return sum(one.service_s for one in self.served)


class Fleet:
    """A site and where its experts are at the start, by name."""

    def __init__(self, site: Site, start: Start) -> None:
        """Raises `UnknownExpert` or `ConfigError` if the start is none of the site's."""
        self.site = site
        self.tenants = {tenant.expert_id: tenant for tenant in site.hosts}
        self.bases = {tenant.expert_id: tenant.base for tenant in site.tenants}
        self.awake = set(self._copies(start.awake))
        self.asleep = set(self._copies(start.asleep))
        labels = Counter(label for tenant in site.hosts for label in tenant.apart)
        self._locks = {
            tenant.expert_id: tuple(f"\0{label}" for label in tenant.apart if labels[label] > 1)
            for tenant in site.hosts
        }
        self._check_start()

    def host(self, expert_id: str) -> Tenant:
        """The tenant whose weights serve this expert."""
        if expert_id not in self.bases:
            raise UnknownExpert(expert_id, self.bases)
        return self.tenants[self.bases[expert_id] or expert_id]

    def work(self, stage: Stage) -> dict[str, list[Group]]:
        """The groups of a stage by the expert whose weights serve them."""
        work: dict[str, list[Group]] = {}
        for group in stage.groups:
            work.setdefault(self.host(group.expert_id).expert_id, []).append(group)
        return work

    def holds(self, copy: Copy) -> dict[str, float]:
        """What a copy takes while it is awake: GiB on devices, and 1 of each of its locks."""
        gib = self.tenants[copy.expert_id].gib
        held = dict.fromkeys(copy.devices, gib)
        return {**held, **dict.fromkeys(self._locks[copy.expert_id], 1.0)}

    def has_lock(self, expert_id: str) -> bool:
        """Whether it must not be resident together with some other expert."""
        return bool(self._locks[expert_id])

    def room(self) -> dict[str, float]:
        """What there is of everything that is held, less what is pinned."""
        room = dict(self.site.devices)
        for tenant in self.tenants.values():
            if tenant.pinned:
                for device in tenant.placements[0]:
                    room[device] -= tenant.gib
            room.update(dict.fromkeys(self._locks[tenant.expert_id], 1.0))
        return room

    def placements(self, tenant: Tenant) -> tuple[tuple[str, ...], ...]:
        """Where it can be beside what is pinned: those of the kind it likes best.

        That is one device or several, whichever its first placement is.
        """
        room = self.room()
        able = [
            devices
            for devices in self.site.placements(tenant)
            if tenant.pinned or all(tenant.gib <= room[d] + 1e-9 for d in devices)
        ]
        return tuple(d for d in able if (len(d) > 1) == (len(able[0]) > 1))

    def first_s(self, copy: Copy) -> float:
        """Seconds to bring it from where it is at the start."""
        costs = self.tenants[copy.expert_id].costs
        if copy in self.awake:
            return 0.0
        return costs.wake_s if copy in self.asleep else costs.load_s

    def _copies(self, named: Mapping[str, Sequence[str]]) -> list[Copy]:
        copies = []
        for expert_id, devices in named.items():
            tenant = self.host(expert_id)
            if tuple(devices) not in self.site.placements(tenant):
                raise ConfigError(
                    f"expert {expert_id!r} starts on {'+'.join(devices)}, which is none of its "
                    f"placements"
                )
            copies.append(Copy(tenant.expert_id, tuple(devices)))
        return copies

    def _check_start(self) -> None:
        if {copy.expert_id for copy in self.awake} & {copy.expert_id for copy in self.asleep}:
            raise ConfigError("an expert cannot start both awake and asleep")
        room = self.room()
        for copy in self.awake:
            if not self.tenants[copy.expert_id].pinned:
                for name, amount in self.holds(copy).items():
                    room[name] -= amount
        if any(left < -1e-9 for left in room.values()):
            raise ConfigError(
                "the experts awake at the start do not fit beside those that are pinned"
            )
