"""Experts that leave at an operator's word, and not because somebody needs their room."""

from __future__ import annotations

from coe.scheduling.lane import Departure, Lane
from coe.scheduling.terms import Residency
from coe.scheduling.transitions import Transitions


class Departures:
    """Lets those that were sent away serve their gate, and sends them then."""

    def __init__(self, moves: Transitions) -> None:
        self._moves = moves
        self._lanes: dict[str, Lane] = {}

    def begin(self, lane: Lane, how: Departure) -> None:
        """Closes its door behind those who wait now. Nobody brings it back unasked, nor is it
        pinned, until somebody asks for it. A departure for good stays one.
        """
        if lane.departure is not Departure.FOR_GOOD:
            lane.departure = how
        lane.is_kept_away = True
        if lane.promised_to is None:
            lane.gate = len(lane.line)
        self._lanes[lane.expert_id] = lane

    def advance(self, now: float) -> list[Lane]:
        """Sends away whoever may go. Those that have left for good, no longer known here."""
        gone: list[Lane] = []
        for lane in list(self._lanes.values()):
            how = lane.departure
            if how is None or self._has_left(lane, how):
                del self._lanes[lane.expert_id]
                if how is Departure.FOR_GOOD:
                    gone.append(lane)
                else:
                    lane.departure = None
            elif self._may_go(lane):
                self._moves.begin_leave(now, lane, to_disk=how is not Departure.SLEEP)
        return gone

    def _has_left(self, lane: Lane, how: Departure) -> bool:
        if lane.residency is Residency.DISK:
            return True
        return lane.residency is Residency.ASLEEP and how is Departure.SLEEP

    def _may_go(self, lane: Lane) -> bool:
        """One that sleeps and is waited for is woken, serves its gate, and leaves then."""
        if lane.residency is Residency.ASLEEP:
            return not lane.line
        is_serving = lane.granted or (lane.line and lane.gate > 0)
        return lane.residency is Residency.AWAKE and not is_serving
