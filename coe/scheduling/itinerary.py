"""A plan as visits: which expert comes when, who has to be over before, who leaves first.

A visit is the time that one expert is awake and serves. The plan gives its order alone: when a
visit begins and ends is told by whoever follows it, for nobody knows how long requests take.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from coe.scheduling.eviction import Resident
from coe.scheduling.plan import Action, Plan, Step
from coe.scheduling.terms import Site


@dataclass(slots=True, eq=False)
class Visit:
    """One expert, awake to serve what one stage has for it."""

    expert_id: str
    """The one whose weights serve: adapters are their base."""
    devices: tuple[str, ...]
    stage: int
    n_expected: int
    makes_room: tuple[Visit, ...]
    """Those whose experts leave before this one can come: they are over by then."""
    follows: tuple[Visit, ...]
    """Those before it on its devices: it serves once they have nothing more to hand out."""
    is_loaded: bool
    """Its expert is not there yet when the turn comes to it."""
    came_at: int
    """The step of the plan by which its expert came; -1: it was there at the start."""
    n_arrived: int = 0
    is_called: bool = False
    """Its expert was sent for."""
    is_open: bool = False
    """It serves whatever arrives."""
    is_over: bool = False

    @property
    def has_all(self) -> bool:
        """As many have arrived as were expected, or more."""
        return self.n_arrived >= self.n_expected


class Itinerary:
    """The visits of one plan that are not over yet, in its order."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self._leaves: dict[str, list[int]] = {}
        self.left = _visits(site, plan, self._leaves)

    def next_of(self, expert_id: str) -> Visit | None:
        """The visit that this expert makes or is to make next; None: it is not expected again."""
        return next((v for v in self.left if v.expert_id == expert_id), None)

    def end(self, visits: Collection[Visit]) -> None:
        """These are over."""
        for visit in visits:
            visit.is_over = True
        self.left = [visit for visit in self.left if not visit.is_over]

    def leaves_at(self, expert_id: str) -> float:
        """The step by which a resident expert leaves; infinite if the plan keeps it to its end."""
        steps = self._leaves.get(expert_id, [])
        visit = self.next_of(expert_id)
        if visit is None:
            return steps[-1] if steps else math.inf
        if visit.is_loaded and not visit.is_called:
            before = [step for step in steps if step < visit.came_at]
            return before[-1] if before else math.inf
        return next((float(step) for step in steps if step > visit.came_at), math.inf)


class PlannedEviction:
    """Whoever the plan sends away first leaves first, and nobody before those that are idle."""

    def __init__(self) -> None:
        self.itinerary: Itinerary | None = None
        """None: the dearest to bring back stay."""

    def victims(
        self, needs: Mapping[str, float], residents: Sequence[Resident]
    ) -> tuple[str, ...] | None:
        short = {device: gib for device, gib in needs.items() if gib > 1e-9}
        chosen: list[Resident] = []
        for one in sorted(residents, key=self._rank):
            if not short:
                break
            if any(one.frees.get(device, 0.0) > 0.0 for device in short):
                chosen.append(one)
                rest = {d: gib - one.frees.get(d, 0.0) for d, gib in short.items()}
                short = {device: gib for device, gib in rest.items() if gib > 1e-9}
        if short:
            return None
        return tuple(one.expert_id for one in chosen)

    def _rank(self, resident: Resident) -> tuple[float, float, float]:
        leaves_at = self.itinerary.leaves_at(resident.expert_id) if self.itinerary else 0.0
        return (-resident.next_use, leaves_at, resident.cost)


def _visits(site: Site, plan: Plan, leaves: dict[str, list[int]]) -> list[Visit]:
    """In the order of the plan; fills in by which steps each expert leaves.

    What one expert serves on end, in one stage or in two, is one visit.
    """
    hosts = {tenant.expert_id: tenant.base or tenant.expert_id for tenant in site.tenants}
    apart = {tenant.expert_id: tenant.apart for tenant in site.hosts}
    visits: list[Visit] = []
    # A plan may have an expert in two places in turn, without sending it away in between.
    open_: dict[tuple[str, tuple[str, ...]], Visit] = {}
    last: dict[str, Visit] = {}
    gone: list[Visit] = []
    came: dict[tuple[str, tuple[str, ...]], int] = {}
    for at, step in enumerate(plan.steps):
        host = hosts[step.expert_id]
        copy = (host, step.devices)
        if step.action in (Action.LOAD, Action.WAKE):
            came[copy] = at
        elif step.action in (Action.SLEEP, Action.EVICT):
            leaves.setdefault(host, []).append(at)
            if copy in open_:
                gone.append(open_.pop(copy))
        else:
            n_requests = step.requests[1] - step.requests[0]
            here = open_.get(copy)
            if here is not None and all(last[d] is here for d in step.devices):
                here.n_expected += n_requests
                continue
            visit = Visit(
                host,
                step.devices,
                step.stage,
                n_requests,
                _clearing(step, host, gone, apart) if here is None else (),
                tuple(dict.fromkeys(last[d] for d in step.devices if d in last)),
                is_loaded=here is None and copy in came,
                came_at=came.get(copy, -1),
            )
            visits.append(visit)
            open_[copy] = visit
            last.update(dict.fromkeys(step.devices, visit))
    return visits


def _clearing(
    step: Step, host: str, gone: Sequence[Visit], apart: Mapping[str, frozenset[str]]
) -> tuple[Visit, ...]:
    """Of the visits whose experts have left, those that held what this one needs."""
    return tuple(
        visit
        for visit in gone
        if not set(visit.devices).isdisjoint(step.devices) or apart[visit.expert_id] & apart[host]
    )
