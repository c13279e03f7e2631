"""Carrying swaps out: who is to come, who has to leave first, and when to think again."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from coe.scheduling.choice import Bid, Claim, bid_of, demand, quantum_s, round_of, urgent_at
from coe.scheduling.lane import Lane
from coe.scheduling.memory import Memory
from coe.scheduling.swaps import RoomFinder, Swap
from coe.scheduling.terms import Residency, Site, SwapRules
from coe.scheduling.transitions import Transitions

GROWTH = 1.125
"""A queue that has grown by less since its expert was last weighed is not weighed again."""
MOST_TRIES = 16
"""So many experts without a stronger claim than the others are tried, best first."""
LEAST_PAUSE_S = 0.001
"""A thought is not repeated sooner than this when only time has passed."""


class Switching:
    """The swaps decided and under way."""

    def __init__(
        self,
        lanes: Collection[Lane],
        memory: Memory,
        moves: Transitions,
        rooms: RoomFinder,
        rules: SwapRules,
    ) -> None:
        self._lanes = lanes
        """All of them, whoever is added or removed."""
        self._memory = memory
        self._moves = moves
        self._rooms = rooms
        self._rules = rules
        self._pinned = [lane for lane in lanes if lane.tenant.pinned]
        self._wanting: dict[str, Lane] = {}
        self._blocked: frozenset[str] = frozenset()
        self._weighed: dict[str, float] = {}
        """Expert → weight of its queue when no room was found for it, since the last decision."""
        self.again_at_s = math.inf
        """When time alone may change what was decided."""
        self.is_shut = False
        self.credit_clock = 0.0
        """The credit of the last idle expert that left: those not used since rank below it."""

    def place(self, placements: Mapping[str, tuple[tuple[str, ...], ...]]) -> None:
        """Where these experts go from their next load on; swaps already decided stay."""
        self._rooms.chosen.update(placements)

    def regard(self, site: Site) -> None:
        """An expert has been added or removed."""
        self._pinned = [lane for lane in self._lanes if lane.tenant.pinned]
        self._rooms.regard(site, self._lanes)

    def want(self, lane: Lane) -> None:
        """Somebody waits for an expert that is not awake."""
        self._wanting[lane.expert_id] = lane

    def left(self, now: float, lane: Lane) -> None:
        """It has gone from where it was, however that came about."""
        lane.promised_to = None
        lane.left_s = now
        for swap in self._rooms.pending.values():
            swap.awaited.pop(lane.expert_id, None)
        if lane.line:
            self.want(lane)

    def consider(self, now: float, lane: Lane) -> None:
        """Whether one more ticket makes its expert worth a swap. Cheaper than `decide`."""
        known = self._weighed.get(lane.expert_id)
        if known is not None and now < self.again_at_s and lane.line.weight < GROWTH * known:
            return
        if self._is_candidate(lane, now):
            if self._pinned and self._is_freed(now, lane):
                return
            if known is None and len(lane.line) == 1:
                self._rooms.round = self._rooms.round.joined_by(lane)
            bid = bid_of(lane, now, self._rules, self._rooms.round)
            self._try(lane, now, bid, self._blocked)

    def decide(self, now: float) -> list[Lane]:
        """Carries on with what was decided and decides anew; the lanes open again by it."""
        reopened = self._drop_stale(now)
        self.again_at_s = math.inf
        for swap in list(self._rooms.pending.values()):
            self._advance(now, swap)
        if self.is_shut:
            self._send_all_away(now)
            return []
        self._free_stranded(now)
        self._weighed.clear()
        self._blocked = frozenset()
        self._rooms.round = round_of(self._lanes)
        n_left = MOST_TRIES
        for bid, lane in sorted(self._bids(now), key=lambda pair: pair[0]):
            if not self._is_candidate(lane, now):
                continue  # A swap begun a moment ago sends this sleeper away.
            if n_left <= 0:
                self._wake_for(lane, now, bid)
                continue
            keep_off = self._blocked if bid.claim is not Claim.OVERDUE else ()
            if self._try(lane, now, bid, keep_off):
                continue
            if bid.claim is Claim.OVERDUE:
                placements = self._rooms.placements(lane)
                self._blocked |= {device for devices in placements for device in devices}
            else:
                n_left -= 1
        if not self._wanting and self._rules.prefetches:
            self._prefetch(now)
        return [lane for lane in reopened if lane.promised_to is None and lane.line]

    def _bids(self, now: float) -> Iterator[tuple[Bid, Lane]]:
        for lane in list(self._wanting.values()):
            if not lane.line or lane.residency in (Residency.AWAKE, Residency.LOADING):
                del self._wanting[lane.expert_id]
            elif self._is_candidate(lane, now):
                yield bid_of(lane, now, self._rules, self._rooms.round), lane
        for lane in self._pinned:
            is_meant_here = bool(lane.line) or not lane.is_kept_away
            is_away = lane.residency is Residency.DISK and is_meant_here
            if is_away and self._is_candidate(lane, now):
                yield Bid(Claim.OVERDUE, -math.inf), lane

    def _is_candidate(self, lane: Lane, now: float) -> bool:
        """Not yet decided on, and free to be moved."""
        if lane.expert_id in self._rooms.pending:
            return False
        if lane.residency not in (Residency.DISK, Residency.ASLEEP):
            return False
        if now < lane.retry_at_s:
            self._wake_by(now, lane.retry_at_s)
            return False
        return True

    def _free_stranded(self, now: float) -> None:
        """A sleeper wakes where it sleeps. Where it cannot, it goes to disk, and from there
        anywhere.
        """
        for lane in list(self._wanting.values()) if self._pinned else ():
            if lane.line and self._is_candidate(lane, now):
                self._is_freed(now, lane)

    def _is_freed(self, now: float, lane: Lane) -> bool:
        is_stranded = lane.residency is Residency.ASLEEP and self._rooms.is_stranded(lane)
        return is_stranded and self._moves.begin_leave(now, lane, to_disk=True)

    def _try(self, lane: Lane, now: float, bid: Bid, blocked: Collection[str]) -> bool:
        search = self._rooms.find(lane, now, bid, blocked)
        if search.swap is not None:
            self._adopt(now, search.swap)
            return True
        self._weighed[lane.expert_id] = lane.line.weight
        self._wake_by(now, search.again_at_s)
        self._wake_for(lane, now, bid)
        return False

    def _wake_for(self, lane: Lane, now: float, bid: Bid) -> None:
        """Its claim grows stronger by itself; when?"""
        oldest = lane.line.oldest()
        if bid.claim is not Claim.OVERDUE and oldest is not None:
            self._wake_by(now, oldest.arrived_s + self._rules.max_wait_s)
        deadline = lane.line.earliest_deadline()
        if bid.claim is Claim.ORDINARY and deadline is not None:
            self._wake_by(now, urgent_at(lane, deadline))

    def _wake_by(self, now: float, at_s: float) -> None:
        self.again_at_s = min(self.again_at_s, max(at_s, now + LEAST_PAUSE_S))

    def _adopt(self, now: float, swap: Swap) -> None:
        self._rooms.pending[swap.target.expert_id] = swap
        for lane in swap.awaited.values():
            if lane.residency is not Residency.LEAVING:
                lane.promised_to = swap.target
        self._advance(now, swap)

    def _advance(self, now: float, swap: Swap) -> None:
        for lane in swap.awaited.values():
            if self._may_go(lane, now):
                was_idle = lane.is_idle
                gone = self._moves.begin_leave(now, lane, swap.to_disk)
                if gone and was_idle:
                    self.credit_clock = max(self.credit_clock, lane.credit)
                if gone and lane.line:
                    self.want(lane)
        target = swap.target
        is_still = target.residency in (Residency.DISK, Residency.ASLEEP)
        if is_still and not swap.awaited and self._memory.fits(target, swap.devices):
            del self._rooms.pending[target.expert_id]
            self._wanting.pop(target.expert_id, None)
            waited = bool(target.line) or target.tenant.pinned
            self._moves.begin_load(now, target, swap.devices, waited)

    def _may_go(self, lane: Lane, now: float) -> bool:
        if lane.residency is Residency.ASLEEP:
            return True
        if lane.residency is not Residency.AWAKE or lane.granted:
            return False
        return not lane.line or lane.is_gate_shut(now, quantum_s(lane, self._rules))

    def _drop_stale(self, now: float) -> list[Lane]:
        """Gives up swaps that nobody needs or that there is a better way for."""
        reopened: list[Lane] = []
        for swap in list(self._rooms.pending.values()):
            if self._is_stale(swap, now):
                del self._rooms.pending[swap.target.expert_id]
                for lane in swap.awaited.values():
                    lane.promised_to = None
                    reopened.append(lane)
        return reopened

    def _is_stale(self, swap: Swap, now: float) -> bool:
        target = swap.target
        if self.is_shut or now < target.retry_at_s:
            return True
        if target.residency not in (Residency.DISK, Residency.ASLEEP):
            return True
        is_meant_here = not target.is_kept_away
        if swap.is_prefetch:
            return bool(self._wanting) or not is_meant_here
        if not target.line and not (target.tenant.pinned and is_meant_here):
            return True
        if not swap.awaited:
            return not self._memory.fits(target, swap.devices) and not self._is_room_coming(swap)
        return swap.waits_for_busy() and self._is_somebody_idle(target)

    def _is_room_coming(self, swap: Swap) -> bool:
        holders = self._memory.holders(swap.devices)
        return any(lane.residency is Residency.LEAVING for lane in holders)

    def _is_somebody_idle(self, target: Lane) -> bool:
        devices = {d for placement in self._rooms.placements(target) for d in placement}
        return any(
            lane.is_idle and lane.promised_to is None and not lane.tenant.pinned
            for lane in self._memory.holders(devices)
        )

    def _prefetch(self, now: float) -> None:
        """Nobody waits for a swap: brings the expert most in demand where there is room."""
        absent = [
            lane
            for lane in self._lanes
            if lane.rate.per_s(now) > 0.0
            and not lane.is_kept_away
            and self._is_candidate(lane, now)
        ]
        if not absent or any(swap.is_prefetch for swap in self._rooms.pending.values()):
            return
        best = max(absent, key=lambda lane: demand(lane, now))
        swap = self._rooms.find_spare(best, now)
        if swap is not None:
            self._adopt(now, swap)

    def _send_all_away(self, now: float) -> None:
        for lane in self._lanes:
            if self._may_go(lane, now):
                self._moves.begin_leave(now, lane, to_disk=True)
