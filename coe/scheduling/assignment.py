"""Which copies serve what in each stage, so that every stage is over early.

A stage is balanced like machines with set-ups: an expert already on a device costs nothing
there. What will still be there in later stages is not known before, so a device counts as
keeping what it had in proportion to its room; `planner` repeats the balance once it knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from coe.scheduling.copies import Copy, Fleet, Served, Share
from coe.scheduling.makespan import Job, Part, balanced
from coe.scheduling.makespan_program import program_balance
from coe.scheduling.plan import Group, Stage

Setup = Callable[[int, Copy], float]
"""Seconds to have a copy ready in a stage."""


class Assigner:
    """Spreads stages over the devices of a fleet."""

    def __init__(
        self, fleet: Fleet, stages: Sequence[Stage], split_ratio: float, exact_s: float
    ) -> None:
        self._fleet = fleet
        self._works = [fleet.work(stage) for stage in stages]
        self._split_ratio = split_ratio
        self._exact_s = exact_s
        self._devices = list(fleet.site.devices)
        self._placements = {
            expert_id: fleet.placements(fleet.tenants[expert_id])
            for expert_id in dict.fromkeys(e for work in self._works for e in work)
        }

    @property
    def is_free(self) -> bool:
        """Whether there is anything to choose."""
        return any(len(placements) > 1 for placements in self._placements.values())

    def jobs(self, stage: int, setup: Setup) -> dict[str, Job]:
        """The experts of a stage as jobs on single devices; without those that span several."""
        jobs = {}
        for expert_id, groups in self._works[stage].items():
            placements = self._placements[expert_id]
            if len(placements[0]) == 1:
                setups = [math.inf] * len(self._devices)
                for devices in placements:
                    machine = self._devices.index(devices[0])
                    setups[machine] = setup(stage, Copy(expert_id, devices))
                work_s = sum(group.service_s for group in groups)
                jobs[expert_id] = Job(work_s, tuple(setups), self.max_parts(expert_id, groups))
        return jobs

    def max_parts(self, expert_id: str, groups: Sequence[Group]) -> int:
        """Devices that may serve it at a time: its work on each is much more than its load."""
        tenant = self._fleet.tenants[expert_id]
        if self._fleet.has_lock(expert_id):
            return 1
        n_requests = max(group.n_requests for group in groups)
        most = min(n_requests, len(self._placements[expert_id]))
        if tenant.costs.load_s <= 0.0 or math.isinf(self._split_ratio):
            return 1 if math.isinf(self._split_ratio) else most
        work_s = sum(group.service_s for group in groups)
        return max(1, min(most, int(work_s / (self._split_ratio * tenant.costs.load_s))))

    def first_guess(self) -> list[list[Share]]:
        """Every stage balanced in turn, a device keeping what it had as far as it has room."""
        had: dict[str, dict[Copy, float]] = {device: {} for device in self._devices}
        room = self._fleet.room()

        def setup(stage: int, copy: Copy) -> float:
            costs = self._fleet.tenants[copy.expert_id].costs
            if stage == 0:
                return self._fleet.first_s(copy)
            kept = 1.0
            for device in copy.devices:
                if copy not in had[device]:
                    return costs.load_s
                kept = min(kept, room[device] / max(1e-9, sum(had[device].values())))
            return costs.load_s * (1.0 - kept)

        stages = []
        for stage in range(len(self._works)):
            shares = self.balanced(stage, setup)
            stages.append(shares)
            for share in shares:
                for device in share.copy.devices:
                    gib = self._fleet.tenants[share.copy.expert_id].gib
                    had[device][share.copy] = gib
        return stages

    def balanced(
        self, stage: int, setup: Setup, busy_s: Mapping[str, float] | None = None
    ) -> list[Share]:
        """One stage: experts that span devices first, the others around them.

        `busy_s`: what else a device has to do for so long; nothing if it is not named.
        """
        busy = {**dict.fromkeys(self._devices, 0.0), **(busy_s or {})}
        shares = []
        for expert_id, groups in self._works[stage].items():
            placements = self._placements[expert_id]
            if len(placements[0]) > 1:
                copy = self._earliest(stage, expert_id, busy, setup)
                share = Share(copy, _served(groups, 0.0, 1.0))
                ends_s = setup(stage, copy) + share.work_s + max(busy[d] for d in copy.devices)
                busy.update(dict.fromkeys(copy.devices, ends_s))
                shares.append(share)
        jobs = self.jobs(stage, setup)
        if not jobs:
            return shares
        offsets = [busy[device] for device in self._devices]
        for expert_id, parts in zip(jobs, self._parts(list(jobs.values()), offsets), strict=True):
            begun = 0.0
            for part in parts:
                copy = Copy(expert_id, (self._devices[part.machine],))
                served = _served(self._works[stage][expert_id], begun, begun + part.share)
                begun += part.share
                if served:
                    shares.append(Share(copy, served))
        return shares

    def _parts(self, jobs: Sequence[Job], busy_s: Sequence[float]) -> list[list[Part]]:
        found = balanced(jobs, busy_s)
        if self._exact_s > 0.0 and found.gap > 1e-6:
            found = program_balance(jobs, busy_s, self._exact_s)
        parts: list[list[Part]] = [[] for _ in jobs]
        for part in found.parts:
            parts[part.job].append(part)
        return parts

    def _earliest(self, stage: int, expert_id: str, busy: dict[str, float], setup: Setup) -> Copy:
        copies = [Copy(expert_id, devices) for devices in self._placements[expert_id]]
        return min(copies, key=lambda c: setup(stage, c) + max(busy[d] for d in c.devices))


def _served(groups: Sequence[Group], begin: float, end: float) -> tuple[Served, ...]:
    """The requests between two fractions of each group."""
    served = []
    for group in groups:
        first, last = (round(group.n_requests * min(1.0, x)) for x in (begin, end))
        if last > first:
            seconds = group.service_s * (last - first) / group.n_requests
            served.append(Served(group.expert_id, (first, last), seconds))
    return tuple(served)
