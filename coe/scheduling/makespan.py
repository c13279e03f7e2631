"""Jobs on several machines so that the last one is done early.

P||Cmax where a job pays a set-up on every machine it runs on: the load of an expert, nothing
where it is resident already. Longest first, MULTIFIT, then moves and swaps; a job whose work
is much more than its set-up may be cut into parts. Exact by an integer program on request.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

_FITS = 1e-9
_BISECTIONS = 25


@dataclass(frozen=True, slots=True)
class Job:
    """Work that one machine does, or several that each pay the set-up."""

    work_s: float
    setups_s: tuple[float, ...]
    """(n_machines,); infinite where it cannot run."""
    max_parts: int = 1

    @property
    def machines(self) -> list[int]:
        """Where it can run."""
        return [m for m, setup in enumerate(self.setups_s) if math.isfinite(setup)]

    @property
    def least_s(self) -> float:
        """The earliest it can be over if all machines are free."""
        able = sorted(setup for setup in self.setups_s if math.isfinite(setup))
        parts = able[: self.max_parts]
        return max(parts[0], min((self.work_s + sum(parts[:k])) / k for k in _to(len(parts))))

    def setups_by(self, height_s: float) -> float:
        """The least set-ups to pay in all if no part may take longer than that."""
        able = sorted(setup for setup in self.setups_s if math.isfinite(setup))
        paid_s = 0.0
        for parts, setup in enumerate(able[: self.max_parts], 1):
            paid_s += setup
            if self.work_s + paid_s <= parts * height_s:
                break
        return paid_s


@dataclass(frozen=True, slots=True)
class Part:
    """What one machine does of one job."""

    job: int
    machine: int
    share: float
    """Of the job's work; the shares of a job add up to 1."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Who does what, and how well it is spread."""

    parts: tuple[Part, ...]
    makespan_s: float
    bound_s: float
    """No way of doing it, cutting as allowed, is over before this."""

    @property
    def gap(self) -> float:
        return self.makespan_s / self.bound_s - 1.0 if self.bound_s > 0.0 else 0.0


def balanced(jobs: Sequence[Job], busy_s: Sequence[float]) -> Balance:
    """Spreads the jobs over machines that are busy with other things for so long before."""
    bound_s = makespan_bound_s(jobs, busy_s)
    placed = _improved(jobs, _multifit(jobs, busy_s, bound_s), busy_s)
    whole = [Part(job, machine, 1.0) for job, machine in enumerate(placed)]
    best = Balance(tuple(whole), makespan_s(jobs, whole, busy_s), bound_s)
    if best.makespan_s > bound_s * (1 + _FITS) and any(job.max_parts > 1 for job in jobs):
        cut = _cut(jobs, busy_s, bound_s, best.makespan_s)
        if cut is not None and (ends := makespan_s(jobs, cut, busy_s)) < best.makespan_s - _FITS:
            best = Balance(tuple(cut), ends, bound_s)
    return best


def makespan_s(jobs: Sequence[Job], parts: Sequence[Part], busy_s: Sequence[float]) -> float:
    """When the last machine is done."""
    ends = list(busy_s)
    for part in parts:
        job = jobs[part.job]
        ends[part.machine] += job.setups_s[part.machine] + part.share * job.work_s
    return max(ends, default=0.0)


def makespan_bound_s(jobs: Sequence[Job], busy_s: Sequence[float]) -> float:
    """The mean over machines, or the job that takes longest however it is cut, if that is more.

    A job that has to be cut to be over in time pays for so many set-ups, which raises the mean.
    """
    n_machines = len(busy_s)
    work_s = sum(job.work_s for job in jobs) + sum(busy_s)
    setups_s = sum(min(job.setups_s) for job in jobs)
    low_s = max((work_s + setups_s) / n_machines, *busy_s, *(job.least_s for job in jobs))
    if _is_enough(jobs, work_s, n_machines, low_s):
        return low_s
    high_s = 2 * low_s
    for _ in range(_BISECTIONS):
        middle_s = (low_s + high_s) / 2
        if _is_enough(jobs, work_s, n_machines, middle_s):
            high_s = middle_s
        else:
            low_s = middle_s
    return low_s


def _is_enough(jobs: Sequence[Job], work_s: float, n_machines: int, height_s: float) -> bool:
    """Whether all machines together have the seconds, if nothing ends after this."""
    setups_s = sum(job.setups_by(height_s) for job in jobs)
    return work_s + setups_s <= n_machines * height_s * (1 + _FITS)


def _multifit(jobs: Sequence[Job], busy_s: Sequence[float], bound_s: float) -> list[int]:
    """The machine of each job: the least height at which first-fit succeeds, or longest first."""
    order = sorted(range(len(jobs)), key=lambda j: -jobs[j].work_s - min(jobs[j].setups_s))
    best = _longest_first(jobs, order, busy_s)
    low, high = bound_s, _ends(jobs, best, busy_s)
    for _ in range(_BISECTIONS):
        if high <= low * (1 + 1e-6):
            break
        middle = (low + high) / 2
        found = _packed(jobs, order, busy_s, middle)
        if found is None:
            low = middle
        else:
            best, high = found, _ends(jobs, found, busy_s)
    return best


def _longest_first(jobs: Sequence[Job], order: Sequence[int], busy_s: Sequence[float]) -> list[int]:
    ends, placed = list(busy_s), [0] * len(jobs)
    for j in order:
        job = jobs[j]
        machine = min(job.machines, key=lambda m: ends[m] + job.setups_s[m])
        ends[machine] += job.setups_s[machine] + job.work_s
        placed[j] = machine
    return placed


def _packed(
    jobs: Sequence[Job], order: Sequence[int], busy_s: Sequence[float], height_s: float
) -> list[int] | None:
    """Best fit under a height, cheapest set-up first."""
    ends, placed = list(busy_s), [0] * len(jobs)
    for j in order:
        job = jobs[j]
        able = [
            m
            for m in job.machines
            if ends[m] + job.setups_s[m] + job.work_s <= height_s * (1 + _FITS)
        ]
        if not able:
            return None
        machine = min(able, key=lambda m: (job.setups_s[m], -ends[m]))
        ends[machine] += job.setups_s[machine] + job.work_s
        placed[j] = machine
    return placed


def _ends(jobs: Sequence[Job], placed: Sequence[int], busy_s: Sequence[float]) -> float:
    return max(_machine_ends(jobs, placed, busy_s), default=0.0)


def _machine_ends(
    jobs: Sequence[Job], placed: Sequence[int], busy_s: Sequence[float]
) -> list[float]:
    ends = list(busy_s)
    for job, machine in zip(jobs, placed, strict=True):
        ends[machine] += job.setups_s[machine] + job.work_s
    return ends


def _improved(jobs: Sequence[Job], placed: list[int], busy_s: Sequence[float]) -> list[int]:
    """Moves and swaps out of the machine that is done last, while that helps."""
    ends = _machine_ends(jobs, placed, busy_s)
    for _ in range(20 * len(jobs)):
        last = max(range(len(ends)), key=lambda m: ends[m])
        change = _best_change(jobs, placed, ends, last)
        if change is None:
            break
        for j, machine in change:
            placed[j] = machine
        ends = _machine_ends(jobs, placed, busy_s)
    return placed


def _best_change(
    jobs: Sequence[Job], placed: Sequence[int], ends: Sequence[float], last: int
) -> list[tuple[int, int]] | None:
    """The move or swap after which the two machines it touches are both done earliest."""

    def took(j: int, machine: int) -> float:
        return jobs[j].setups_s[machine] + jobs[j].work_s

    best_s, best = ends[last] - _FITS * max(1.0, ends[last]), None
    here = [j for j, machine in enumerate(placed) if machine == last]
    for j in here:
        left_s = ends[last] - took(j, last)
        for machine in range(len(ends)):
            if machine == last or not math.isfinite(jobs[j].setups_s[machine]):
                continue
            later_s = max(left_s, ends[machine] + took(j, machine))
            if later_s < best_s:
                best_s, best = later_s, [(j, machine)]
    for j in here:
        for k, machine in enumerate(placed):
            if machine == last:
                continue
            later_s = max(
                ends[last] - took(j, last) + took(k, last),
                ends[machine] - took(k, machine) + took(j, machine),
            )
            if later_s < best_s:
                best_s, best = later_s, [(j, machine), (k, last)]
    return best


def _cut(
    jobs: Sequence[Job], busy_s: Sequence[float], low_s: float, high_s: float
) -> list[Part] | None:
    """The least height at which everything goes in, jobs being cut where they overflow."""
    best = _poured(jobs, busy_s, low_s * (1 + _FITS))
    if best is not None:
        return best
    for _ in range(_BISECTIONS):
        if high_s <= low_s * (1 + 1e-6):
            break
        middle_s = (low_s + high_s) / 2
        found = _poured(jobs, busy_s, middle_s)
        if found is None:
            low_s = middle_s
        else:
            best, high_s = found, middle_s
    return best


def _poured(jobs: Sequence[Job], busy_s: Sequence[float], height_s: float) -> list[Part] | None:
    """All jobs under a height, in the first of three orders that does it.

    Those that cannot be cut first; those that are too long at last, to fill what the others
    leave; or simply the longest first.
    """
    longest = sorted(range(len(jobs)), key=lambda j: -jobs[j].work_s)
    whole_first = sorted(longest, key=lambda j: jobs[j].max_parts > 1)
    long_last = sorted(longest, key=lambda j: jobs[j].work_s > height_s)
    for order in (whole_first, long_last, longest):
        parts = _poured_in_order(jobs, order, [height_s - busy for busy in busy_s])
        if parts is not None:
            return parts
    return None


def _poured_in_order(
    jobs: Sequence[Job], order: Sequence[int], free: list[float]
) -> list[Part] | None:
    parts: list[Part] = []
    for j in order:
        poured = _pour(jobs[j], j, free)
        if poured is None:
            return None
        for part in poured:
            free[part.machine] -= jobs[j].setups_s[part.machine] + part.share * jobs[j].work_s
        parts += poured
    return parts


def _pour(job: Job, j: int, free: Sequence[float]) -> list[Part] | None:
    whole = [m for m in job.machines if free[m] >= job.setups_s[m] + job.work_s]
    if whole:
        return [Part(j, min(whole, key=lambda m: (job.setups_s[m], free[m])), 1.0)]
    gaps: list[tuple[float, int]] = []
    for m in job.machines:
        if free[m] > job.setups_s[m]:
            insort(gaps, (free[m] - job.setups_s[m], m))
    left_s, parts = job.work_s, []
    for gap_s, m in reversed(gaps[-job.max_parts :]):
        done_s = min(left_s, gap_s)
        if done_s <= _FITS * job.work_s:
            break
        parts.append(Part(j, m, done_s / job.work_s))
        left_s -= done_s
    return parts if parts and left_s <= _FITS * max(1.0, job.work_s) else None


def _to(n: int) -> range:
    return range(1, n + 1)
