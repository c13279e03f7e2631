"""Which experts go to host memory when they leave, instead of to disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coe.scheduling.copies import Copy, Fleet, Share


def chosen_sleepers(fleet: Fleet, stages: Sequence[Sequence[Share]]) -> frozenset[Copy]:
    """Those that save most seconds per GiB of host memory, for the whole plan.

    Experts asleep at the start come first; those among them that nobody needs stay asleep
    unless what they leave on their devices is in the way.
    """
    uses = Counter(share.copy for shares in stages for share in shares)
    uses.update(copy for copy in fleet.awake if copy in uses)
    idle = {c for c in fleet.asleep if c not in uses and not _residue(fleet, c)}
    kept = sorted(c for c in fleet.asleep if c in uses) + sorted(idle)
    able = [
        c for c, n in uses.items() if n > 1 and c not in fleet.asleep and _saves_s(fleet, c) > 0
    ]
    able.sort(key=lambda c: -_saves_s(fleet, c) * (uses[c] - 1) / max(1e-9, _host_gib(fleet, c)))
    chosen: set[Copy] = set()
    free_gib = fleet.site.host_gib
    for copy in [*kept, *able]:
        if _host_gib(fleet, copy) <= free_gib + 1e-9:
            free_gib -= _host_gib(fleet, copy)
            chosen.add(copy)
    return frozenset(_out_of_the_way(fleet, chosen, list(uses)))


def _saves_s(fleet: Fleet, copy: Copy) -> float:
    tenant = fleet.tenants[copy.expert_id]
    if tenant.asleep_gib is None or tenant.pinned:
        return 0.0
    costs = tenant.costs
    return costs.load_s + costs.evict_s - costs.wake_s - costs.sleep_s


def _host_gib(fleet: Fleet, copy: Copy) -> float:
    return fleet.tenants[copy.expert_id].asleep_gib or 0.0


def _residue(fleet: Fleet, copy: Copy) -> float:
    return fleet.tenants[copy.expert_id].residue_gib


def _out_of_the_way(fleet: Fleet, chosen: set[Copy], copies: Sequence[Copy]) -> set[Copy]:
    """Without those whose residue keeps somebody from fitting: the largest residue first."""
    while True:
        room = fleet.room()
        for copy in chosen:
            for device in copy.devices:
                room[device] -= _residue(fleet, copy)
        for copy in copies:
            if fleet.tenants[copy.expert_id].pinned:
                continue
            gib = fleet.tenants[copy.expert_id].gib
            gib -= _residue(fleet, copy) if copy in chosen else 0.0
            tight = [device for device in copy.devices if gib > room[device] + 1e-9]
            if tight:
                guilty = [c for c in chosen if tight[0] in c.devices and _residue(fleet, c) > 0]
                chosen = chosen - {max(guilty, key=lambda c: (_residue(fleet, c), c))}
                break
        else:
            return chosen
