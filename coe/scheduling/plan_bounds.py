"""What no plan of a batch can do with less than, whichever devices it uses.

All memory is taken as one pool, loads as running on any device, and every expert as one that
sleeps if it can. An expert that is cut is counted as loaded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.scheduling.assignment import Assigner
from coe.scheduling.carry import CarryProblem, members
from coe.scheduling.carry_search import load_bound_s, load_count_bound
from coe.scheduling.copies import Copy, Fleet
from coe.scheduling.makespan import makespan_bound_s
from coe.scheduling.plan import Bounds, Group

Work = dict[str, list[Group]]


def plan_bounds(
    fleet: Fleet, works: Sequence[Work], assigner: Assigner, known_load_s: float | None
) -> Bounds:
    """`known_load_s`: a bound of load seconds that is known already; None: none is."""
    pooled = _pooled(fleet, works)
    pinned = [
        tenant
        for tenant in fleet.tenants.values()
        if tenant.pinned
        and any(tenant.expert_id in work for work in works)
        and Copy(tenant.expert_id, tenant.placements[0]) not in fleet.awake
    ]
    load_s = known_load_s
    if load_s is None:
        load_s = load_bound_s(pooled) + sum(_first_s(fleet, t.expert_id) for t in pinned)
    n_devices = len(fleet.site.devices)
    work_s = sum(_device_s(fleet, work) for work in works)
    stages_s = sum(_stage_s(fleet, work, i, assigner, pooled) for i, work in enumerate(works))
    return Bounds(
        len(pinned) + load_count_bound(pooled),
        load_s,
        max(stages_s, (work_s + load_s) / n_devices),
    )


def _pooled(fleet: Fleet, works: Sequence[Work]) -> CarryProblem:
    ids = dict.fromkeys(e for work in works for e in work)
    moving = [fleet.tenants[e] for e in ids if not fleet.tenants[e].pinned]
    awake = {copy.expert_id for copy in fleet.awake}
    room = fleet.room()
    bit = {tenant.expert_id: 1 << i for i, tenant in enumerate(moving)}
    again_s = [
        t.costs.load_s if t.asleep_gib is None else min(t.costs.load_s, t.costs.wake_s)
        for t in moving
    ]
    sizes = [[t.gib * len(fleet.placements(t)[0])] for t in moving]
    return CarryProblem(
        tuple(sum(bit.get(expert_id, 0) for expert_id in work) for work in works),
        np.array(sizes).reshape(len(moving), 1),
        np.array([sum(room[device] for device in fleet.site.devices)]),
        [_first_s(fleet, t.expert_id) for t in moving],
        again_s,
        sum(bit.get(expert_id, 0) for expert_id in awake),
    )


def _first_s(fleet: Fleet, expert_id: str) -> float:
    placements = fleet.site.placements(fleet.tenants[expert_id])
    return min(fleet.first_s(Copy(expert_id, devices)) for devices in placements)


def _device_s(fleet: Fleet, work: Work) -> float:
    """Service of one stage, on all devices it occupies."""
    return sum(
        group.service_s * min(len(d) for d in fleet.placements(fleet.tenants[expert_id]))
        for expert_id, groups in work.items()
        for group in groups
    )


def _stage_s(
    fleet: Fleet, work: Work, stage: int, assigner: Assigner, pooled: CarryProblem
) -> float:
    """The least a stage takes. Loads that come early, while others still serve, do not count."""

    def setup(stage: int, copy: Copy) -> float:
        return fleet.first_s(copy) if stage == 0 else 0.0

    jobs = assigner.jobs(stage, setup)
    n_devices = len(fleet.site.devices)
    if stage == 0:
        loads_s = sum(min(job.setups_s) for job in jobs.values())
    else:
        loads_s = _late_loads_s(pooled, stage)
    mean_s = (_device_s(fleet, work) + loads_s) / n_devices
    spanning_s = [
        sum(group.service_s for group in groups)
        for expert_id, groups in work.items()
        if expert_id not in jobs
    ]
    longest_s = makespan_bound_s(list(jobs.values()), [0.0] * n_devices)
    return max(mean_s, longest_s, *spanning_s, 0.0)


def _late_loads_s(pooled: CarryProblem, stage: int) -> float:
    """Loads of a stage after the one before is over: what then is resident has to fit."""
    rows = [
        (pooled.coming_s(stage, e), float(pooled.gib[e, 0])) for e in members(pooled.needs[stage])
    ]
    rows.sort(key=lambda row: -row[0] / max(1e-12, row[1]))
    room, late_s = float(pooled.room[0]), 0.0
    for load_s, gib in rows:
        early = min(1.0, room / gib) if gib > 0.0 else 1.0
        room -= early * gib
        late_s += (1.0 - early) * load_s
    return late_s
