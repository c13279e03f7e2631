"""The swap-aware scheduler: which expert is resident, who runs, who is refused.

Pure, as `effects.Scheduler` says. What may change is decided in `_decide`, after every event
that could change the answer; DESIGN.md has the rules and why they hold.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from coe.errors import CoeError, UnknownExpert
from coe.scheduling.admission import (
    Deadlines,
    earliest_end_s,
    failed_to_load,
    queue_full,
    shutting_down,
    too_late,
)
from coe.scheduling.choice import demand, quantum_s
from coe.scheduling.effects import Effects
from coe.scheduling.eviction import EvictionPolicy, LookAhead
from coe.scheduling.lane import Lane
from coe.scheduling.memory import Memory
from coe.scheduling.swaps import RoomFinder
from coe.scheduling.switching import Switching
from coe.scheduling.terms import Residency, Site, SwapRules, Ticket
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
        window_s = self.rules.rate_window_s
        self._hosts = {tenant.expert_id: Lane(tenant, window_s) for tenant in site.hosts}
        self._lanes = {t.expert_id: self._hosts[t.base or t.expert_id] for t in site.tenants}
        memory = Memory(site)
        self._moves = Transitions(effects, memory, self.rules)
        lanes = tuple(self._hosts.values())
        rooms = RoomFinder(site, lanes, memory, self.rules, policy or LookAhead())
        self._switching = Switching(lanes, memory, self._moves, rooms, self.rules)
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
    def n_waiting(self) -> int:
        return self._n_waiting

    @property
    def is_empty(self) -> bool:
        """Nobody waits or runs, and nothing is resident or moving: shut down for good."""
        return self._n_waiting == 0 and all(
            lane.residency is Residency.DISK for lane in self._hosts.values()
        )

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
        error = self._objection(now, ticket, lane)
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
        lane = self._lane(ticket.expert_id)
        if lane.line.cancel(ticket.id) is None:
            return
        self._n_waiting -= 1
        self.counts.cancelled += 1
        if not lane.line:
            self._decide(now)

    def on_loaded(self, now: float, expert_id: str) -> None:
        lane = self._lane(expert_id)
        if lane.residency is not Residency.LOADING:
            return
        self._moves.loaded(now, lane)
        self._serve(now, lane)
        self._decide(now)

    def on_load_failed(self, now: float, expert_id: str, error: CoeError) -> None:
        lane = self._lane(expert_id)
        if lane.residency is not Residency.LOADING:
            return
        self._moves.load_failed(now, lane, error)
        self._refuse_all(lane, failed_to_load(lane, now))
        self._left(now, lane)

    def on_slept(self, now: float, expert_id: str, residue_gib: float | None = None) -> None:
        lane = self._lane(expert_id)
        if lane.residency is Residency.LEAVING and not lane.is_leaving_for_disk:
            self._moves.slept(now, lane, residue_gib)
            self._left(now, lane)

    def on_evicted(self, now: float, expert_id: str) -> None:
        lane = self._lane(expert_id)
        if lane.residency is Residency.LEAVING and lane.is_leaving_for_disk:
            self._moves.evicted(now, lane)
            self._left(now, lane)

    def on_leave_failed(self, now: float, expert_id: str) -> None:
        lane = self._lane(expert_id)
        if lane.residency is Residency.LEAVING and lane.expert_id not in self._moves.stuck:
            self._moves.leave_failed(now, lane)
            self._decide(now)

    def on_crashed(self, now: float, expert_id: str) -> None:
        lane = self._lane(expert_id)
        if lane.residency not in (Residency.AWAKE, Residency.ASLEEP):
            return
        self._moves.crashed(now, lane)
        self._left(now, lane)

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        lane = self._lane(ticket.expert_id)
        granted_s = lane.granted.pop(ticket.id, None)
        if granted_s is None:
            return
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

    def on_tick(self, now: float) -> None:
        self._expire(now)
        self._moves.retry_leaves(now)
        self._decide(now)

    def on_shutdown(self, now: float) -> None:
        self._switching.is_shut = True
        for lane in self._hosts.values():
            self._refuse_all(lane, shutting_down())
        self._decide(now)

    def next_wakeup(self) -> float | None:
        deadline = self._deadlines.next_s()
        retries = (lane.retry_at_s for lane in self._moves.stuck.values())
        at_s = min(
            self._switching.again_at_s, deadline if deadline is not None else math.inf, *retries
        )
        return at_s if at_s < math.inf else None

    def _lane(self, expert_id: str) -> Lane:
        lane = self._lanes.get(expert_id)
        if lane is None:
            raise UnknownExpert(expert_id, self._lanes)
        return lane

    def _objection(self, now: float, ticket: Ticket, lane: Lane) -> CoeError | None:
        """Why a ticket cannot be accepted; None if it can."""
        if self._switching.is_shut:
            return shutting_down()
        if lane.last_error is not None and now < lane.retry_at_s:
            return failed_to_load(lane, now)
        if len(lane.line) >= lane.tenant.max_queued:
            return queue_full(lane, len(lane.line), f"expert {lane.expert_id!r}")
        if self._n_waiting >= self.rules.max_queued:
            return queue_full(lane, self._n_waiting, "the experts")
        end_s = earliest_end_s(lane, now)
        if ticket.deadline_s is not None and end_s > ticket.deadline_s:
            return too_late(ticket, lane, end_s)
        return None

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
        for lane in self._switching.decide(now):
            self._serve(now, lane)
