"""Which expert should come next, and what a swap would cost those it disturbs.

Pure functions of lanes and the time. All costs are in ticket-seconds of waiting, so that a
swap and a queue can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from coe.scheduling.lane import Lane
from coe.scheduling.terms import SwapRules

AGING = 10.0
"""A ticket as old as the age bound weighs so many times more than a fresh one."""


class Claim(IntEnum):
    """How strong an expert's claim to be next is. The lower, the stronger."""

    OVERDUE = 0
    """A ticket is past the age bound. Whoever has gone without for longest first: by the oldest
    ticket, or by when the expert last left if that was later. So each of the overdue has its
    turn before anyone has a second one, however long the queues are."""
    URGENT = 1
    """A deadline holds only if the swap begins now. Earliest first."""
    ORDINARY = 2
    """Most waiting work per second of swap and service first."""


@dataclass(frozen=True, slots=True, order=True)
class Bid:
    """One expert's claim; the smallest is served first."""

    claim: Claim
    rank: float


def quantum_s(lane: Lane, rules: SwapRules) -> float:
    """The longest a visit of this expert lasts while others are overdue."""
    return max(rules.quantum_s, rules.quantum_swaps * lane.swap_s)


def bid_of(lane: Lane, now: float, rules: SwapRules) -> Bid:
    """The claim of an expert that somebody waits for."""
    oldest = lane.line.oldest()
    if oldest is not None and now >= oldest.arrived_s + rules.max_wait_s:
        return Bid(Claim.OVERDUE, max(oldest.arrived_s, lane.left_s))
    deadline = lane.line.earliest_deadline()
    if deadline is not None and now >= urgent_at(lane, deadline):
        return Bid(Claim.URGENT, deadline)
    return Bid(Claim.ORDINARY, -waiting_work(lane, now, rules) / (lane.swap_s + lane.serving_s))


def urgent_at(lane: Lane, deadline_s: float) -> float:
    """When the swap has to begin at the latest, with one service to spare."""
    return deadline_s - lane.swap_s - 2 * lane.service_s.value


def waiting_work(lane: Lane, now: float, rules: SwapRules) -> float:
    """Weight of those who wait, each counted twice at a tenth of the age bound and so on."""
    return lane.line.weight + lane.line.waited_s(now) * AGING / rules.max_wait_s


def disturbance(victim: Lane, target: Lane, now: float) -> float:
    """What it costs those who wait or will wait for the victim if the target takes its place.

    The victim is away while it drains and leaves, the target loads, serves and leaves, and it
    comes back: so long its queue stands, and what gathers takes its time to clear as well.
    """
    drain_s = victim.service_s.value if victim.granted else 0.0
    away_s = (
        drain_s
        + victim.leave_s
        + target.swap_s
        + target.serving_s
        + target.leave_s
        + victim.return_s
    )
    clearing = 1.0 - victim.busy_share(now)
    arrivals = victim.rate.per_s(now) * away_s * away_s / (2.0 * clearing)
    return victim.line.weight * away_s + arrivals


def grievance(target: Lane, victim: Lane, now: float) -> float:
    """What the wait for the target has cost since the victim came."""
    since_s = max(0.0, now - victim.opened_s)
    return min(target.line.waited_s(now), target.line.weight * since_s)


def demand(lane: Lane, now: float) -> float:
    """Seconds of swapping a second that its residency saves."""
    return lane.rate.per_s(now) * lane.return_s
