"""The tickets that wait for one expert, in three orders at once.

By rank (priority, deadline, arrival) for serving, by age for the age bound, by deadline for
urgency. Pushing, serving and cancelling are O(log n): a ticket that has left one order stays in
the others as a dead entry until it comes up or dead entries outnumber the living.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from coe.scheduling.terms import Ticket


class Entry:
    """One waiting ticket."""

    __slots__ = ("arrived_s", "is_waiting", "ticket", "weight")

    def __init__(self, ticket: Ticket, arrived_s: float) -> None:
        self.ticket = ticket
        self.arrived_s = arrived_s
        self.weight = ticket.weight
        self.is_waiting = True


_Ranked = tuple[int, float, int, Entry]
_Due = tuple[float, int, Entry]


class WaitingLine:
    """The queue of one expert."""

    __slots__ = (
        "_by_age",
        "_by_deadline",
        "_by_rank",
        "_entries",
        "_moment",
        "_n_pushed",
        "weight",
    )

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_age: deque[Entry] = deque()
        self._by_rank: list[_Ranked] = []
        self._by_deadline: list[_Due] = []
        self._n_pushed = 0
        self.weight = 0.0
        """Sum of the weights of those who wait."""
        self._moment = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._entries

    def push(self, ticket: Ticket, now: float) -> Entry:
        entry = Entry(ticket, now)
        self._n_pushed += 1
        deadline = math.inf if ticket.deadline_s is None else ticket.deadline_s
        self._entries[ticket.id] = entry
        self._by_age.append(entry)
        heappush(self._by_rank, (-ticket.priority, deadline, self._n_pushed, entry))
        if ticket.deadline_s is not None:
            heappush(self._by_deadline, (deadline, self._n_pushed, entry))
        self.weight += entry.weight
        self._moment += entry.weight * now
        return entry

    def cancel(self, ticket_id: str) -> Entry | None:
        """Takes one out of the line; None if it does not wait here."""
        entry = self._entries.get(ticket_id)
        if entry is None:
            return None
        self._leave(entry)
        self._trim()
        return entry

    def pop(self, overdue_before_s: float) -> Entry:
        """The next to be served: the oldest if it came before that time, else the best ranked."""
        oldest = self.oldest()
        if oldest is None:
            raise IndexError("nobody waits")
        if oldest.arrived_s <= overdue_before_s:
            self._leave(oldest)
            self._trim()
            return oldest
        while True:
            entry = heappop(self._by_rank)[3]
            if entry.is_waiting:
                self._leave(entry)
                self._trim()
                return entry

    def oldest(self) -> Entry | None:
        ages = self._by_age
        while ages and not ages[0].is_waiting:
            ages.popleft()
        return ages[0] if ages else None

    def earliest_deadline(self) -> float | None:
        due = self._by_deadline
        while due and not due[0][2].is_waiting:
            heappop(due)
        return due[0][0] if due else None

    def waited_s(self, now: float) -> float:
        """Weighted sum of the ages of all who wait, in ticket-seconds."""
        return max(0.0, self.weight * now - self._moment)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def clear(self) -> list[Entry]:
        """Empties the line; those who waited, oldest first."""
        entries = list(self._entries.values())
        for entry in entries:
            self._leave(entry)
        self._compact()
        return entries

    def _leave(self, entry: Entry) -> None:
        entry.is_waiting = False
        del self._entries[entry.ticket.id]
        if self._entries:
            self.weight -= entry.weight
            self._moment -= entry.weight * entry.arrived_s
        else:  # Rounding errors end with the last of a queue.
            self.weight = self._moment = 0.0
            self._by_rank.clear()
            self._by_age.clear()
            self._by_deadline.clear()

    def _trim(self) -> None:
        most = 2 * len(self._entries) + 64
        if len(self._by_rank) > most or len(self._by_age) > most or len(self._by_deadline) > most:
            self._compact()

    def _compact(self) -> None:
        self._by_age = deque(entry for entry in self._by_age if entry.is_waiting)
        self._by_rank = [ranked for ranked in self._by_rank if ranked[3].is_waiting]
        self._by_deadline = [due for due in self._by_deadline if due[2].is_waiting]
        heapify(self._by_rank)
        heapify(self._by_deadline)
