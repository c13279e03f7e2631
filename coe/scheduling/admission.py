"""Accepting or refusing a ticket: bounded queues, deadlines that cannot be met, failed experts.

Nothing is ever dropped in silence: a refusal is an error that says what to do about it.
"""

from __future__ import annotations

from heapq import heappop, heappush

from coe.errors import (
    CoeError,
    DeadlineExceeded,
    ExpertRemoved,
    QueueFull,
    ShuttingDown,
    StartupError,
)
from coe.scheduling.lane import Departure, Lane
from coe.scheduling.terms import Residency, SwapRules, Ticket
from coe.scheduling.waiting import Entry


def shutting_down() -> CoeError:
    return ShuttingDown("the gateway is shutting down; send the request elsewhere or later")


def objection(
    now: float, ticket: Ticket, lane: Lane, n_waiting: int, rules: SwapRules
) -> CoeError | None:
    """Why a ticket cannot be accepted while the gateway serves; None if it can."""
    if lane.departure is Departure.FOR_GOOD:
        return removed(ticket.expert_id)
    if lane.last_error is not None and now < lane.retry_at_s:
        return failed_to_load(lane, now)
    if len(lane.line) >= lane.tenant.max_queued:
        return queue_full(lane, len(lane.line), f"expert {lane.expert_id!r}")
    if n_waiting >= rules.max_queued:
        return queue_full(lane, n_waiting, "the experts")
    end_s = earliest_end_s(lane, now)
    if ticket.deadline_s is not None and end_s > ticket.deadline_s:
        return too_late(ticket, lane, end_s)
    return None


def removed(expert_id: str) -> CoeError:
    return ExpertRemoved(expert_id)


def failed_to_load(lane: Lane, now: float) -> CoeError:
    """Why an expert that failed to load is not tried again yet."""
    wait_s = max(0.0, lane.retry_at_s - now)
    # The first line says it; whoever began the load has told all of it, once.
    cause = str(lane.last_error).partition("\n")[0].removeprefix(f"expert {lane.expert_id!r}: ")
    message = f"could not be loaded ({cause}); next try in {wait_s:.3g} s"
    return StartupError(lane.expert_id, message)


def queue_full(lane: Lane, n_waiting: int, whose: str) -> QueueFull:
    """A refusal that says when a place will be free, as measured.

    Those turned away one after the other are sent back one after the other.
    """
    per_ticket_s = lane.service_s.value / lane.tenant.max_in_flight
    swap_s = 0.0 if lane.residency is Residency.AWAKE else lane.swap_s
    lane.n_turned_away += 1
    wait_s = max(0.001, swap_s + per_ticket_s * lane.n_turned_away)
    return QueueFull(f"{n_waiting} requests already wait for {whose}", round(wait_s, 3))


def earliest_end_s(lane: Lane, now: float) -> float:
    """When a ticket could be finished if nobody else were there."""
    match lane.residency:
        case Residency.AWAKE:
            swap_s = 0.0
        case Residency.LOADING:
            swap_s = max(
                0.0, lane.moved_at_s + (lane.wake_s if lane.woke else lane.load_s).value - now
            )
        case _:
            swap_s = lane.swap_s
    return now + swap_s + lane.service_s.value


def too_late(ticket: Ticket, lane: Lane, end_s: float) -> DeadlineExceeded:
    late_s = end_s - (ticket.deadline_s or 0.0)
    return DeadlineExceeded(
        f"expert {lane.expert_id!r} could finish {late_s:.3g} s after the deadline at the "
        f"earliest; allow more time or ask an expert that is resident"
    )


class Deadlines:
    """When the waiting tickets have to be granted at the latest."""

    def __init__(self) -> None:
        self._latest: list[tuple[float, int, Entry, Lane]] = []
        self._n_pushed = 0

    def push(self, entry: Entry, lane: Lane) -> None:
        if entry.ticket.deadline_s is not None:
            self._n_pushed += 1
            latest_s = entry.ticket.deadline_s - lane.service_s.value
            heappush(self._latest, (latest_s, self._n_pushed, entry, lane))

    def next_s(self) -> float | None:
        """The next time at which one becomes impossible."""
        self._drop_dead()
        return self._latest[0][0] if self._latest else None

    def pop_missed(self, now: float) -> tuple[Entry, Lane] | None:
        """One that can no longer be met, still in its line; None if there is none."""
        self._drop_dead()
        if not self._latest or self._latest[0][0] > now:
            return None
        _, _, entry, lane = heappop(self._latest)
        return entry, lane

    def _drop_dead(self) -> None:
        while self._latest and not self._latest[0][2].is_waiting:
            heappop(self._latest)
