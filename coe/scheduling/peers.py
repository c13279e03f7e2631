"""How others swap, on the same effects, to compare with in the simulator.

Written from the described behaviour of each, on one memory model: an expert is resident or on
disk. Where a description leaves a choice open the better one is taken, and none of them has a
limit at which it refuses. An expert that is awake takes whatever it is handed and batches by
itself. DESIGN.md says what each rule is and where it fails.
"""

from __future__ import annotations

from collections import deque

from coe.scheduling.effects import Effects
from coe.scheduling.seats import Peer, Room, Seat
from coe.scheduling.terms import Residency, Site, Ticket


class Fifo(Peer):
    """Strictly in order of arrival: who is not at the head waits, whatever is resident."""

    def _walk(self, now: float) -> None:
        self._send_off()
        while self._queue:
            seat = self._seat(self._queue[0])
            if self._is_open(seat):
                self._hand(now, self._queue.popleft())
                continue
            if not self._is_expected(seat) and seat.residency is Residency.DISK:
                room = self._room(seat, self._least_recent(idle_only=False))
                if room is not None:
                    self._bring(now, seat, *room)
            return


class Ollama(Fifo):
    """In order of arrival; the head waits for an idle expert to leave, least recent first.

    While an expert loads, requests behind the head for those that are awake go on.
    """

    def _walk(self, now: float) -> None:
        kept: deque[Ticket] = deque()
        while self._queue:
            ticket = self._queue[0]
            seat = self._seat(ticket)
            if self._is_open(seat):
                self._hand(now, self._queue.popleft())
            elif self._is_expected(seat):
                kept.append(self._queue.popleft())
            elif any(self._is_expected(other) for other in self._seats.values()):
                break
            else:
                room = self._room(seat, self._least_recent(idle_only=True))
                if seat.residency is not Residency.DISK or room is None:
                    break
                self._bring(now, seat, *room)
        self._queue.extendleft(reversed(kept))


class Lru(Peer):
    """Switches at once: the least recently used expert takes nobody new and leaves."""

    def __init__(self, site: Site, effects: Effects) -> None:
        super().__init__(site, effects)
        self._lines: dict[str, deque[Ticket]] = {}
        """Expert → who waits for it; experts in the order in which their first one came."""

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        seat = self._seat(ticket)
        self._lines.setdefault(seat.tenant.expert_id, deque()).append(ticket)
        self._walk(now)

    def _waiting(self, seat: Seat) -> list[Ticket]:
        return list(self._lines.get(seat.tenant.expert_id, ()))

    def _drop(self, ticket: Ticket) -> None:
        expert_id = self._seat(ticket).tenant.expert_id
        line = self._lines.get(expert_id, deque())
        if ticket in line:
            line.remove(ticket)
            if not line:
                del self._lines[expert_id]

    def _walk(self, now: float) -> None:
        self._send_off()
        for expert_id in list(self._lines):
            seat = self._seats[expert_id]
            if self._is_open(seat):
                for ticket in self._lines.pop(expert_id):
                    self._hand(now, ticket)
            elif seat.residency is Residency.DISK and not self._is_expected(seat):
                room = self._try_room(seat)
                if room is not None:
                    self._bring(now, seat, *room)

    def _try_room(self, seat: Seat) -> Room | None:
        return self._room(seat, self._least_recent(idle_only=False))


class LlamaSwap(Lru):
    """Serves who is awake at once, and swaps an expert out only when it is idle.

    Who would leave is decided without a look at who is busy: whoever is quickest to load again,
    and among equals the last by name, which is its default. If that one is busy the request
    waits. Its queue is walked in order of arrival whenever an expert comes or falls idle.
    """

    def _try_room(self, seat: Seat) -> Room | None:
        resident = [
            other
            for other in self._seats.values()
            if other.residency in (Residency.AWAKE, Residency.LOADING)
            and not other.tenant.pinned
            and other.makes_room_for is None
        ]
        resident.sort(key=lambda other: other.tenant.expert_id, reverse=True)
        resident.sort(key=self._cost)
        room = self._room(seat, resident)
        if room is None or any(other.in_flight or not self._is_open(other) for other in room[1]):
            return None
        return room

    def _cost(self, seat: Seat) -> tuple[float, float]:
        return (seat.tenant.costs.load_s, 0.0)


class LlamaSwapLru(LlamaSwap):
    """The same with its other tie-breaker: among equals whoever has been idle for longest."""

    def _cost(self, seat: Seat) -> tuple[float, float]:
        used_s = float("inf") if seat.in_flight else seat.used_s
        return (seat.tenant.costs.load_s, used_s)


class RayMultiplex(Peer):
    """So many requests inside at a time, in order of arrival; loads one at a time, LRU."""

    def __init__(self, site: Site, effects: Effects, max_ongoing: int = 16) -> None:
        super().__init__(site, effects)
        self._max_ongoing = max_ongoing

    def _walk(self, now: float) -> None:
        self._send_off()
        running = sum(seat.in_flight for seat in self._seats.values())
        inside = [self._queue[i] for i in range(min(self._max_ongoing - running, len(self._queue)))]
        for ticket in inside:
            seat = self._seat(ticket)
            if self._is_open(seat):
                self._queue.remove(ticket)
                self._hand(now, ticket)
            elif not any(self._is_expected(other) for other in self._seats.values()):
                room = self._room(seat, self._least_recent(idle_only=False))
                if seat.residency is Residency.DISK and room is not None:
                    self._bring(now, seat, *room)
