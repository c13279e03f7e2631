"""The swap-aware scheduler: which expert is resident, who runs, who is refused.

Pure, as `effects.Scheduler` says. What may change is decided in `_decide`, after every event
that could change the answer; DESIGN.md has the rules and why they hold.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from coe.errors import CoeError, ConfigError
from coe.scheduling.admission import (
    Deadlines,
    failed_to_load,
    objection,
    removed,
    shutting_down,
    too_late,
)
from coe.scheduling.choice import demand, quantum_s
from coe.scheduling.departures import Departures
from coe.scheduling.effects import Effects
from coe.scheduling.eviction import EvictionPolicy, LookAhead
from coe.scheduling.lane import Departure, Lane
from coe.scheduling.memory import Memory
from coe.scheduling.roster import Roster
from coe.scheduling.swaps import RoomFinder
from coe.scheduling.switching import Switching
from coe.scheduling.terms import Residency, Site, SwapRules, Tenant, Ticket
from coe.scheduling.transitions import Counts, Transitions


class SwapScheduler:
    """Keeps serving who is there; swaps when waiting costs more than swapping."""

    def __init__(
        self,
        site: Site,
        effects: Effects,
        rules: SwapRules | None = None,
        policy: EvictionPolicy | None = None,
    ) -> None:
        self.rules = rules or SwapRules()
        self._effects = effects
        self._roster = Roster(site, self.rules.rate_window_s)
        self.memory = Memory(site)
        """To report, never to change."""
        self._moves = Transitions(effects, self.memory, self.rules)
        self._departures = Departures(self._moves)
        self._hosts = self._roster.hosts
        lanes = self._hosts.values()
        rooms = RoomFinder(site, lanes, self.memory, self.rules, policy or LookAhead())
        self._switching = Switching(lanes, self.memory, self._moves, rooms, self.rules)
        self._deadlines = Deadlines()
        self._n_waiting = 0

    @property
    def counts(self) -> Counts:
        return self._moves.counts

    @property
    def lanes(self) -> Collection[Lane]:
        """Every expert with weights of its own. To report, never to change."""
        return self._hosts.values()

    @property
    def site(self) -> Site:
        """The experts that there are now, and the memory they share."""
        return self._roster.site

    @property
    def n_waiting(self) -> int:
        return self._n_waiting

    @property
    def is_empty(self) -> bool:
        """Nobody waits or runs, and nothing is resident or moving: shut down for good."""
        return self._n_waiting == 0 and all(lane.residency is Residency.DISK for lane in self.lanes)

    def is_leaving(self, expert_id: str) -> bool:
        """Whether an operator's word to it is not carried out yet."""
        lane = self._roster.get(expert_id)
        return lane is not None and lane.departure is not None

    def on_start(self, now: float) -> None:
        self._decide(now)

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        """1. Shutting down, failed, full, too late: refused.
        2. Its expert is awake with a place free: granted, after those who waited before.
        3. Else it waits, and its expert may be worth a swap now.
        """
        lane = self._lane(ticket.expert_id)
        if ticket.id in lane.line or ticket.id in lane.granted:
            raise ValueError(f"ticket {ticket.id!r} is already waiting or granted")
        self.counts.arrived += 1
        error = shutting_down() if self._switching.is_shut else None
        error = error or objection(now, ticket, lane, self._n_waiting, self.rules)
        if error is not None:  # (1)
            self._refuse(ticket, error)
            return
        lane.rate.add(now)
        worth = demand(lane, now) / max(lane.tenant.gib, 1e-9)
        lane.credit = self._switching.credit_clock + worth
        self._deadlines.push(lane.line.push(ticket, now), lane)
        self._n_waiting += 1
        if lane.residency is Residency.AWAKE:  # (2)
            self._serve(now, lane)
            return
        self._expire(now)  # (3)
        if lane.line:
            self._switching.want(lane)
            self._switching.consider(now, lane)

    def on_cancel(self, now: float, ticket: Ticket) -> None:
        lane = self._roster.get(ticket.expert_id)
        if lane is None or lane.line.cancel(ticket.id) is None:
            return
        self._n_waiting -= 1
        self.counts.cancelled += 1
        if not lane.line:
            self._decide(now)

    def on_loaded(self, now: float, expert_id: str) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency is not Residency.LOADING:
            return
        self._moves.loaded(now, lane)
        self._serve(now, lane)
        self._decide(now)

    def on_load_failed(self, now: float, expert_id: str, error: CoeError) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency is not Residency.LOADING:
            return
        self._moves.load_failed(now, lane, error)
        self._refuse_all(lane, failed_to_load(lane, now))
        self._left(now, lane)

    def on_slept(self, now: float, expert_id: str, residue_gib: float | None = None) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency is not Residency.LEAVING:
            return
        if not lane.is_leaving_for_disk:
            self._moves.slept(now, lane, residue_gib)
            self._left(now, lane)

    def on_evicted(self, now: float, expert_id: str) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency is not Residency.LEAVING:
            return
        if lane.is_leaving_for_disk:
            self._moves.evicted(now, lane)
            self._left(now, lane)

    def on_leave_failed(self, now: float, expert_id: str) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency is not Residency.LEAVING:
            return
        if lane.expert_id not in self._moves.stuck:
            self._moves.leave_failed(now, lane)
            self._decide(now)

    def on_crashed(self, now: float, expert_id: str) -> None:
        lane = self._roster.get(expert_id)
        if lane is None or lane.residency not in (Residency.AWAKE, Residency.ASLEEP):
            return
        self._moves.crashed(now, lane)
        self._left(now, lane)

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        lane = self._roster.lane_of_granted(ticket.id, ticket.expert_id)
        if lane is None:
            return
        granted_s = lane.granted.pop(ticket.id)
        self.counts.finished += 1
        lane.failures = 0
        if ok:
            lane.service_s.add(now - granted_s)
        self._expire(now)
        gate, n_before = lane.gate, len(lane.line)
        self._serve(now, lane)
        is_easier_to_leave = (
            not lane.granted or (n_before and not lane.line) or lane.gate <= 0 < gate
        )
        if is_easier_to_leave:
            self._decide(now)

    def on_placements(
        self, now: float, placements: Mapping[str, tuple[tuple[str, ...], ...]]
    ) -> None:
        """From their next load on these experts go nowhere but there; nothing that runs or is
        decided is disturbed. One that was removed while they were thought of is passed over.
        Raises `ConfigError` for a place that is none of an expert's own.
        """
        here = {id_: places for id_, places in placements.items() if id_ in self._roster}
        for expert_id, places in here.items():
            tenant = self._lane(expert_id).tenant
            if not places or not set(places) <= set(self.site.placements(tenant)):
                raise ConfigError(f"{places} are no placements of expert {expert_id!r}")
        self._switching.place(here)
        self._decide(now)

    def on_tick(self, now: float) -> None:
        self._expire(now)
        self._moves.retry_leaves(now)
        self._decide(now)

    def on_shutdown(self, now: float) -> None:
        self._switching.is_shut = True
        for lane in self.lanes:
            self._refuse_all(lane, shutting_down())
        self._decide(now)

    def on_dismiss(self, now: float, expert_id: str, to_disk: bool = False) -> None:
        self._roster.check_dismissable(expert_id)
        how = Departure.DISK if to_disk else Departure.SLEEP
        self._departures.begin(self._lane(expert_id), how)
        self._decide(now)

    def on_add(self, now: float, tenant: Tenant) -> None:
        if self._switching.is_shut:
            raise shutting_down()
        self._roster.add(tenant)
        self._switching.regard(self.site)
        self._decide(now)

    def on_remove(self, now: float, expert_id: str) -> None:
        self._roster.check_removable(expert_id)
        lane = self._lane(expert_id)
        for entry in lane.line:
            if entry.ticket.expert_id == expert_id:
                lane.line.cancel(entry.ticket.id)
                self._n_waiting -= 1
                self._refuse(entry.ticket, removed(expert_id))
        if self._roster.is_adapter(expert_id):
            self._forget(expert_id)
        else:
            self._departures.begin(lane, Departure.FOR_GOOD)
        self._decide(now)

    def next_wakeup(self) -> float | None:
        deadline = self._deadlines.next_s()
        retries = (lane.retry_at_s for lane in self._moves.stuck.values())
        at_s = min(
            self._switching.again_at_s, deadline if deadline is not None else math.inf, *retries
        )
        return at_s if at_s < math.inf else None

    def _lane(self, expert_id: str) -> Lane:
        return self._roster.lane(expert_id)

    def _serve(self, now: float, lane: Lane) -> None:
        """Grants whatever may run of those who wait for an awake expert."""
        longest_s = quantum_s(lane, self.rules)
        while lane.line and lane.may_grant(now, longest_s):
            ticket = lane.take_next(now, now - self.rules.max_wait_s)
            self._n_waiting -= 1
            lane.n_turned_away = max(0, lane.n_turned_away - 1)
            lane.granted[ticket.id] = now
            if self._effects.grant(ticket):
                self.counts.granted += 1
            else:
                del lane.granted[ticket.id]
                self.counts.cancelled += 1

    def _refuse(self, ticket: Ticket, error: CoeError) -> None:
        self.counts.refused += 1
        self._effects.refuse(ticket, error)

    def _refuse_all(self, lane: Lane, error: CoeError) -> None:
        entries = lane.line.clear()
        self._n_waiting -= len(entries)
        for entry in entries:
            self._refuse(entry.ticket, error)

    def _expire(self, now: float) -> None:
        """Refuses those whose deadline has become impossible."""
        while (missed := self._deadlines.pop_missed(now)) is not None:
            entry, lane = missed
            lane.line.cancel(entry.ticket.id)
            self._n_waiting -= 1
            self._refuse(entry.ticket, too_late(entry.ticket, lane, now + lane.service_s.value))

    def _left(self, now: float, lane: Lane) -> None:
        self._switching.left(now, lane)
        self._decide(now)

    def _decide(self, now: float) -> None:
        gone = self._departures.advance(now)
        for lane in self._switching.decide(now):
            self._serve(now, lane)
        for lane in gone:
            self._forget(lane.expert_id)

    def _forget(self, expert_id: str) -> None:
        self._roster.forget(expert_id)
        self._switching.place({expert_id: ()})
        self._switching.regard(self.site)
