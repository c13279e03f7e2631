"""The ledger: what each expert holds of each device and of the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from coe.scheduling.lane import Lane
from coe.scheduling.terms import Residency, Site

SLACK_GIB = 1e-6
"""Sums of sizes are compared up to this, so that rounding never makes a fit a misfit."""


class Memory:
    """What is free now, and what will be once those who leave have left."""

    def __init__(self, site: Site) -> None:
        self.free = dict(site.devices)
        self.host_free = site.host_gib
        self._holders: dict[str, dict[str, Lane]] = {device: {} for device in site.devices}

    def hold(self, lane: Lane, gib: float, host_gib: float) -> None:
        """From now on the lane holds so much of each of its devices, and of the host."""
        for device in lane.devices:
            self.free[device] += lane.held_gib - gib
            if gib > 0.0:
                self._holders[device][lane.expert_id] = lane
            else:
                self._holders[device].pop(lane.expert_id, None)
        self.host_free += lane.host_gib - host_gib
        lane.held_gib, lane.host_gib = gib, host_gib

    def holders(self, devices: Iterable[str]) -> Iterator[Lane]:
        """Every lane that holds some of these devices, each once."""
        seen: set[str] = set()
        for device in devices:
            for expert_id, lane in self._holders[device].items():
                if expert_id not in seen:
                    seen.add(expert_id)
                    yield lane

    def fits(self, lane: Lane, devices: Sequence[str]) -> bool:
        """Whether its load can begin now."""
        needed = needed_gib(lane)
        return all(needed <= self.free[device] + SLACK_GIB for device in devices)

    def coming(self, device: str) -> float:
        """What is free once all who leave or have promised to have left."""
        gib = self.free[device]
        for lane in self._holders[device].values():
            if lane.residency is Residency.LEAVING or lane.promised_to is not None:
                gib += freed_gib(lane)
        return gib


def needed_gib(lane: Lane) -> float:
    """What its load takes of each device, beyond what it holds there."""
    return lane.tenant.gib - lane.held_gib


def freed_gib(lane: Lane, to_disk: bool = False) -> float:
    """What its leaving frees of each of its devices."""
    if lane.residency is Residency.ASLEEP:
        return lane.held_gib
    leaves_all = to_disk or lane.is_leaving_for_disk or lane.tenant.asleep_gib is None
    return lane.held_gib - (0.0 if leaves_all else lane.tenant.residue_gib)
