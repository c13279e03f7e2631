"""Which expert should come next, and what a swap would cost those it disturbs.

Pure functions of lanes and the time. All costs are in ticket-seconds of waiting, so that a
swap and a queue can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from coe.scheduling.lane import Lane
from coe.scheduling.terms import Residency, SwapRules

AGING = 1.0
"""A ticket that has waited for a round weighs so many times more again than a fresh one."""
PATIENCE = 1.3
"""Waiting is twice as dear for an expert whose oldest ticket has waited for so many rounds."""
STEEPNESS = 4.0
"""The power of that age by which it grows dearer."""
MOST_DEAR = 4.0
"""So many times as dear at most when it is weighed against a swap that disturbs somebody."""
LEAST_ROUND_S = 1e-3
NEWTON_STEPS = 4


class Claim(IntEnum):
    """How strong an expert's claim to be next is. The lower, the stronger."""

    OVERDUE = 0
    """A ticket is past the age bound. Whoever has gone without for longest first: by the oldest
    ticket, or by when the expert last left if that was later. So each of the overdue has its
    turn before anyone has a second one, however long the queues are."""
    URGENT = 1
    """A deadline holds only if the swap begins now. Earliest first."""
    ORDINARY = 2
    """Most waiting work per second of swap and service first, the more so the older."""


@dataclass(frozen=True, slots=True, order=True)
class Bid:
    """One expert's claim; the smallest is served first."""

    claim: Claim
    rank: float


@dataclass(frozen=True, slots=True)
class Round:
    """What the site has before it: how long it takes to serve everybody who is there once.

    The clock of ordinary claims: who is old among swaps of 50 ms is young among swaps of a minute.
    """

    seconds: float = LEAST_ROUND_S
    """Swap and service of every expert that somebody waits for or runs on."""
    n_visits: int = 1
    """Those experts."""
    n_resident: int = 1
    """Experts on devices, which take turns beside each other."""
    waiting: float = 0.0
    """Weight of those who wait for a swap, for each of these."""

    @property
    def length_s(self) -> float:
        return self.seconds / self.n_resident

    @property
    def visit_s(self) -> float:
        return self.seconds / self.n_visits

    def joined_by(self, lane: Lane) -> Round:
        """With one more expert, that somebody has begun to wait for."""
        waiting = self.waiting + lane.line.weight / self.n_resident
        return Round(self.seconds + _visit_s(lane), self.n_visits + 1, self.n_resident, waiting)


def round_of(lanes: Iterable[Lane]) -> Round:
    """The round that lies before these experts."""
    seconds, n_visits, n_resident, waiting = 0.0, 0, 0, 0.0
    for lane in lanes:
        n_resident += lane.is_on_device
        if lane.line or lane.granted:
            seconds += _visit_s(lane)
            n_visits += 1
        if lane.line and lane.residency in (Residency.DISK, Residency.ASLEEP):
            waiting += lane.line.weight
    n_resident = max(1, n_resident)
    return Round(max(LEAST_ROUND_S, seconds), max(1, n_visits), n_resident, waiting / n_resident)


def _visit_s(lane: Lane) -> float:
    return lane.load_s.value + lane.leave_s + lane.serving_s


def quantum_s(lane: Lane, rules: SwapRules) -> float:
    """The longest a visit of this expert lasts while others are overdue."""
    return max(rules.quantum_s, rules.quantum_swaps * lane.swap_s)


def bid_of(lane: Lane, now: float, rules: SwapRules, round_: Round) -> Bid:
    """The claim of an expert that somebody waits for."""
    oldest = lane.line.oldest()
    if oldest is not None and now >= oldest.arrived_s + rules.max_wait_s:
        return Bid(Claim.OVERDUE, max(oldest.arrived_s, lane.left_s))
    deadline = lane.line.earliest_deadline()
    if deadline is not None and now >= urgent_at(lane, deadline):
        return Bid(Claim.URGENT, deadline)
    # What age adds is not held against an expert that is dear to serve or not yet measured.
    for_age = (impatience(lane, now, round_) - 1.0) / round_.visit_s
    worth = 1.0 / (lane.swap_s + lane.serving_s) + for_age
    return Bid(Claim.ORDINARY, -waiting_work(lane, now, round_) * worth)


def urgent_at(lane: Lane, deadline_s: float) -> float:
    """When the swap has to begin at the latest, with one service to spare."""
    return deadline_s - lane.swap_s - 2 * lane.service_s.value


def waiting_work(lane: Lane, now: float, round_: Round) -> float:
    """Weight of those who wait, each counted twice at a round of age and so on."""
    return lane.line.weight + lane.line.waited_s(now) * AGING / round_.length_s


def impatience(lane: Lane, now: float, round_: Round) -> float:
    """How many times dearer waiting is for the age of the oldest ticket; 1 if that is fresh.

    Weight alone would keep an expert of few requests behind those of many for dozens of rounds.
    """
    oldest = lane.line.oldest()
    if oldest is None:
        return 1.0
    late = (now - oldest.arrived_s) / (PATIENCE * round_.length_s)
    return float(1.0 + late**STEEPNESS)


def disturbance(victim: Lane, target: Lane, now: float, round_: Round) -> float:
    """What it costs the others if the target takes the victim's place now.

    The victim is away while it drains and leaves, the target loads, serves and leaves, and it
    comes back: so long its queue stands, and what gathers takes its time to clear as well. Its
    leaving and coming back, which a longer visit would save, are waited for by everybody else.
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
    others = max(0.0, round_.waiting - target.line.weight) * (victim.leave_s + victim.return_s)
    return victim.line.weight * away_s + arrivals + others


def outweighs_at(target: Lane, victim: Lane, now: float, cost: float, round_: Round) -> float:
    """When the wait for the target will have cost so much since the victim came.

    Waiting is dearer with impatience, up to a limit. Now if it has already; infinite if it
    never will.
    """
    oldest = target.line.oldest()
    waited_s, weight = _waited_s(target, victim, now), target.line.weight
    if oldest is None or weight <= 0.0 or math.isinf(cost):
        return math.inf
    patience_s = PATIENCE * round_.length_s
    dearest_s = patience_s * float((MOST_DEAR - 1.0) ** (1.0 / STEEPNESS))
    grows_s = max(0.0, oldest.arrived_s + dearest_s - now)
    after_s = (cost / MOST_DEAR - waited_s) / weight
    if after_s >= grows_s:
        return now + after_s
    dearness = min(MOST_DEAR, impatience(target, now, round_))
    after_s = min(grows_s, (cost / dearness - waited_s) / weight)
    if after_s <= 0.0:
        return now
    for _ in range(NEWTON_STEPS):  # From above on a convex curve: never too early.
        late = (now + after_s - oldest.arrived_s) / patience_s
        moved_s, growth = waited_s + weight * after_s, 1.0 + late**STEEPNESS
        slope = weight * growth + moved_s * STEEPNESS * late ** (STEEPNESS - 1.0) / patience_s
        after_s -= (moved_s * growth - cost) / slope
    return now + max(0.0, after_s)


def _waited_s(target: Lane, victim: Lane, now: float) -> float:
    since_s = max(0.0, now - victim.opened_s)
    return min(target.line.waited_s(now), target.line.weight * since_s)


def demand(lane: Lane, now: float) -> float:
    """Seconds of swapping a second that its residency saves."""
    return lane.rate.per_s(now) * lane.return_s
