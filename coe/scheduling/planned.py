"""The scheduler of a batch: requests are held back until the plan comes to their expert.

What is known beforehand is told by `expect`. Requests wait here, outside the online rules, and
are handed to those a visit at a time; residency, failures, memory and turns within a visit stay
theirs. What was not expected (failures that fail over, rounds of which only the answers decide
whom they ask) is planned once the plan has nothing else to do. Without `expect`, or after
`forget`, nothing is held back.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coe.errors import CoeError
from coe.scheduling.admission import removed, shutting_down
from coe.scheduling.effects import Effects
from coe.scheduling.itinerary import Itinerary, PlannedEviction, Visit
from coe.scheduling.lane import Departure, Lane
from coe.scheduling.plan import Group, Plan, Stage, Start
from coe.scheduling.planner import PlanRules, plan
from coe.scheduling.scheduler import SwapScheduler
from coe.scheduling.terms import Residency, Site, SwapRules, Ticket

_WHOLE = PlanRules(split_ratio=math.inf)
"""An expert has one resident copy, so no plan may cut it."""
_GATHERING_S = 0.001
"""So long after the last unexpected request others may come with it."""

Expected = Mapping[str, int]
"""Expert → how many requests it will get."""


class PlannedScheduler(SwapScheduler):
    """Follows the plan of all that is expected, with the fewest loads; else as its base."""

    def __init__(self, site: Site, effects: Effects, rules: SwapRules | None = None) -> None:
        self._policy = PlannedEviction()
        # Whom to fetch next is the plan's to say.
        rules = replace(rules or SwapRules(), prefetches=False)
        super().__init__(site, effects, rules, self._policy)
        self._held: defaultdict[str, dict[str, Ticket]] = defaultdict(dict)
        """Expert with weights of its own → tickets that the rules do not know of yet."""
        self._is_planning = False
        self._think_at_s = math.inf

    @property
    def n_held(self) -> int:
        return sum(map(len, self._held.values()))

    @property
    def n_waiting(self) -> int:
        return super().n_waiting + self.n_held

    @property
    def n_loads_ahead(self) -> int:
        """Loads and wakes that the plan has still to begin."""
        itinerary = self._policy.itinerary
        here = (Residency.LOADING, Residency.AWAKE)
        return sum(
            visit.is_loaded
            and not (visit.is_called and self._lane(visit.expert_id).residency in here)
            for visit in (itinerary.left if itinerary else ())
        )

    def expect(self, now: float, stages: Sequence[Expected]) -> Plan:
        """Plans what is held and what will arrive, and follows that from now on.

        A stage arrives once the one before is over. Raises `UnknownExpert`.
        """
        self._is_planning = True
        return self._follow(now, [self._by_host(stage) for stage in stages])

    def forget(self, now: float) -> None:
        """No more is planned: what is held and what arrives is served as it comes."""
        self._is_planning = False
        self._policy.itinerary = None
        everywhere = {host.expert_id: self.site.placements(host) for host in self.site.hosts}
        self.on_placements(now, everywhere)
        for lane in self.lanes:
            self._hand_over(now, lane)

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        """1. Nothing is planned, a deadline presses, or its expert goes: as the base decides.
        2. Its expert's visit goes on: likewise.
        3. It is held until the visit.
        4. No visit is left for it: if its expert is there it joins, else it is planned for.
        """
        lane = self._lane(ticket.expert_id)
        is_going = lane.departure is Departure.FOR_GOOD
        if not self._is_planning or ticket.deadline_s is not None or is_going:
            super().on_arrival(now, ticket)  # (1)
            return
        visit = self._next_visit(lane)
        if visit is not None:
            visit.n_arrived += 1
        is_here = lane.residency is Residency.AWAKE and lane.promised_to is None
        if visit.is_open if visit is not None else is_here:
            super().on_arrival(now, ticket)  # (2), (4)
            if visit is not None and visit.n_arrived == visit.n_expected:
                self._advance(now)
            return
        held = self._held[lane.expert_id]
        held[ticket.id] = ticket  # (3)
        if visit is None or len(held) == 1:
            self._advance(now)  # (4)

    def on_cancel(self, now: float, ticket: Ticket) -> None:
        lane = self._roster.get(ticket.expert_id)
        held = {} if lane is None else self._held[lane.expert_id]
        if held.pop(ticket.id, None) is None:
            super().on_cancel(now, ticket)
        else:
            self.counts.cancelled += 1
        self._advance(now)

    def on_loaded(self, now: float, expert_id: str) -> None:
        super().on_loaded(now, expert_id)
        self._advance(now)

    def on_load_failed(self, now: float, expert_id: str, error: CoeError) -> None:
        super().on_load_failed(now, expert_id, error)
        self._advance(now)

    def on_slept(self, now: float, expert_id: str, residue_gib: float | None = None) -> None:
        super().on_slept(now, expert_id, residue_gib)
        self._advance(now)

    def on_evicted(self, now: float, expert_id: str) -> None:
        super().on_evicted(now, expert_id)
        self._advance(now)

    def on_crashed(self, now: float, expert_id: str) -> None:
        super().on_crashed(now, expert_id)
        self._advance(now)

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        lane = self._roster.lane_of_granted(ticket.id, ticket.expert_id)
        super().on_finish(now, ticket, ok)
        if lane is None or not lane.line:
            self._advance(now)

    def on_remove(self, now: float, expert_id: str) -> None:
        """Who is held for it is refused, too, and the plan goes on without it."""
        host = self._lane(expert_id).expert_id
        super().on_remove(now, expert_id)
        held = self._held[host]
        for ticket in [one for one in held.values() if one.expert_id == expert_id]:
            del held[ticket.id]
            self._refuse(ticket, removed(expert_id))
        itinerary = self._policy.itinerary
        if itinerary is not None and host == expert_id:
            itinerary.end([visit for visit in itinerary.left if visit.expert_id == host])
        self._advance(now)

    def on_tick(self, now: float) -> None:
        super().on_tick(now)
        if now >= self._think_at_s:
            self._think_at_s = math.inf
            if self._is_stuck():
                self._follow(now, self._missing())

    def on_shutdown(self, now: float) -> None:
        for held in self._held.values():
            for ticket in held.values():
                self._refuse(ticket, shutting_down())
            held.clear()
        self._is_planning = False
        super().on_shutdown(now)

    def next_wakeup(self) -> float | None:
        at_s = super().next_wakeup()
        if self._think_at_s == math.inf:
            return at_s
        return self._think_at_s if at_s is None else min(at_s, self._think_at_s)

    def _next_visit(self, lane: Lane) -> Visit | None:
        itinerary = self._policy.itinerary
        return itinerary.next_of(lane.expert_id) if itinerary else None

    def _by_host(self, expected: Expected) -> Counter[str]:
        counts = Counter[str]()
        for expert_id, n_requests in expected.items():
            counts[self._lane(expert_id).expert_id] += n_requests
        return +counts

    def _missing(self) -> list[Counter[str]]:
        """What was expected and has not come, by stage."""
        itinerary = self._policy.itinerary
        stages: dict[int, Counter[str]] = {}
        for visit in itinerary.left if itinerary else ():
            stages.setdefault(visit.stage, Counter())[visit.expert_id] += max(
                0, visit.n_expected - visit.n_arrived
            )
        return [Counter(), *(+stages[stage] for stage in sorted(stages))]

    def _follow(self, now: float, stages: Sequence[Counter[str]]) -> Plan:
        """The plan of those stages, the first of them with all that is here already."""
        running = Counter({one.expert_id: len(one.line) + one.in_flight for one in self.lanes})
        here = running + Counter({id_: len(held) for id_, held in self._held.items()})
        first, *others = stages or (Counter[str](),)
        planned = [self._stage(counts) for counts in (first + here, *others) if counts]
        made = plan(self.site, planned, self._start(), _WHOLE)
        self._policy.itinerary = itinerary = Itinerary(self.site, made)
        for expert_id, n_here in here.items():
            visit = itinerary.next_of(expert_id)
            if visit is not None:
                visit.n_arrived = n_here
                visit.is_called = visit.is_open = running[expert_id] > 0
                if visit.is_open:
                    self._hand_over(now, self._lane(expert_id))
        self._advance(now)
        return made

    def _stage(self, counts: Mapping[str, int]) -> Stage:
        groups = []
        for expert_id, n_requests in counts.items():
            lane = self._lane(expert_id)
            rounds = max(1.0, n_requests / lane.tenant.max_in_flight)
            groups.append(Group(expert_id, n_requests, lane.service_s.value * rounds))
        return Stage(tuple(groups))

    def _start(self) -> Start:
        lanes = self.lanes
        awake = (Residency.AWAKE, Residency.LOADING)
        return Start(
            {lane.expert_id: lane.devices for lane in lanes if lane.residency in awake},
            {lane.expert_id: lane.devices for lane in lanes if lane.residency is Residency.ASLEEP},
        )

    def _advance(self, now: float) -> None:
        """Ends visits that have nothing left to do, and begins those that may begin."""
        itinerary = self._policy.itinerary
        if not self._is_planning or itinerary is None:
            return
        is_moving = True
        while is_moving:
            ended = [visit for visit in itinerary.left if self._is_done(visit)]
            itinerary.end(ended)
            begun = [visit for visit in itinerary.left if self._begin(now, visit)]
            is_moving = bool(ended or begun)
        if self._think_at_s == math.inf and self._is_stuck():
            self._think_at_s = now + _GATHERING_S

    def _is_stuck(self) -> bool:
        """Whether somebody is held whom the plan, as it is, will not come to.

        1. All that it foresaw is handed out: the next to come may be sent for already.
        2. It waits for requests that do not come, and nothing is under way that may bring them.
        """
        if not self._is_planning or not self.n_held:
            return False
        lanes = self.lanes
        if any(lane.line for lane in lanes):
            return False
        if not any(self._held[lane.expert_id] and self._next_visit(lane) for lane in lanes):
            return True  # (1)
        moving = (Residency.LOADING, Residency.LEAVING)
        return not any(lane.granted or lane.residency in moving for lane in lanes)  # (2)

    def _begin(self, now: float, visit: Visit) -> bool:
        """Opens a visit, or sends for its expert; whether anything was done."""
        if visit.is_open or not all(before.is_over for before in visit.makes_room):
            return False
        lane = self._lane(visit.expert_id)
        if self._next_visit(lane) is not visit:
            return False
        held = self._held[visit.expert_id]
        if all(self._has_handed_out(before) for before in visit.follows):
            visit.is_called = visit.is_open = True
            self.on_placements(now, {visit.expert_id: (visit.devices,)})
            self._hand_over(now, lane)
            return True
        if visit.is_called or not held or lane.residency is Residency.AWAKE:
            return False
        # One request of its own makes the expert come while others are still served.
        visit.is_called = True
        self.on_placements(now, {visit.expert_id: (visit.devices,)})
        super().on_arrival(now, held.pop(next(iter(held))))
        return True

    def _hand_over(self, now: float, lane: Lane) -> None:
        held = self._held[lane.expert_id]
        tickets = list(held.values())
        held.clear()
        for ticket in tickets:
            super().on_arrival(now, ticket)

    def _has_handed_out(self, visit: Visit) -> bool:
        """Its last requests run, or are over."""
        line = self._lane(visit.expert_id).line
        return visit.is_over or (visit.is_open and visit.has_all and not line)

    def _is_done(self, visit: Visit) -> bool:
        lane = self._lane(visit.expert_id)
        return visit.is_open and visit.has_all and not lane.line and not lane.granted
