"""The best sets to carry, by dynamic programming over all sets that fit.

A table over the 2^m sets of the m experts that can be carried at all holds, at each boundary,
the least load seconds spent so far. A stage with few such experts is passed by taking, for
each choice of those that are already there, the least over all supersets; one with many by
letting the cheapest sets settle whatever they can reach, which a handful of them do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coe.outcomes import BoolArray, FloatArray
from coe.scheduling.carry import EPSILON_GIB, Carry, CarryProblem, Mask, members

MOST_CARRIED = 16
"""Experts that can be carried; the tables have two to the power of this many rows."""
MOST_EXPERTS = 62
EFFORT = 12_000_000
"""Table cells looked at before the search gives up."""
_FEW = 4
"""Experts of one stage up to which every choice of them is gone through."""

Sets = NDArray[np.int64]


class _TooMuch(Exception):
    """The instance is beyond the effort allowed."""


def exact_carry(problem: CarryProblem, effort: int = EFFORT) -> Carry | None:
    """The choice of least load seconds; None if it takes more than the effort to find."""
    used = [e for e in range(problem.n_experts) if problem.uses(e)]
    carried = [e for e in used if problem.start >> e & 1 or len(problem.uses(e)) > 1]
    if len(carried) > MOST_CARRIED or len(used) > MOST_EXPERTS:
        return None
    order = [*carried, *(e for e in used if e not in set(carried))]
    try:
        tables = _Tables(problem, order, len(carried), effort)
        chosen = tables.backtracked(tables.values())
    except _TooMuch:
        return None
    masks = tuple(sum(1 << order[bit] for bit in members(mask)) for mask in chosen)
    cost_s = problem.cost_s(masks)
    return Carry(masks, cost_s, cost_s)


class _Tables:
    """The program over sets in the order of bits given: those that can be carried first."""

    def __init__(
        self, problem: CarryProblem, order: Sequence[int], n_carried: int, effort: int
    ) -> None:
        self._problem = problem
        self._order = order
        self._n = n_carried
        self._effort = effort
        self._all = (1 << n_carried) - 1
        self._needs = [self._local(need) for need in problem.needs]
        self._start = self._local(problem.start) & self._all
        self._blocked, self._fits = _conflicts(problem, order, n_carried)
        self._later = [self._all & _union(self._needs[s:]) for s in range(len(problem.needs) + 1)]
        """Who is worth carrying into each stage: those needed in it or after."""

    def values(self) -> list[FloatArray]:
        """(2^m,) for each stage, the least spent before it if the set is carried into it."""
        value = np.full(1 << self._n, np.inf)
        value[self._start & self._later[0]] = 0.0
        values = [value]
        for stage in range(len(self._needs) - 1):
            values.append(self._passed(values[-1], stage))
        return values

    def backtracked(self, values: Sequence[FloatArray]) -> list[Mask]:
        """The sets carried on the cheapest way through."""
        last = len(values) - 1
        total = self._with_stage(values[last], last)
        chosen = [int(total.argmin())]
        for stage in reversed(range(last)):
            after = chosen[-1]
            before = np.flatnonzero(np.isfinite(values[stage]))
            spent = self._with_stage(values[stage], stage)[before]
            spent = np.where(self._possible(stage, before, after), spent, np.inf)
            chosen.append(int(before[spent.argmin()]))
        return chosen[::-1]

    def _passed(self, value: FloatArray, stage: int) -> FloatArray:
        after = np.flatnonzero(self._fits)
        after = after[(after & ~self._later[stage + 1]) == 0]
        if (self._needs[stage] & self._all).bit_count() <= _FEW:
            return self._by_choice(value, stage, after)
        return self._by_settling(value, stage, after)

    def _by_choice(self, value: FloatArray, stage: int, after: Sets) -> FloatArray:
        need = self._needs[stage]
        everything = np.arange(len(value))
        passed = np.full(len(value), np.inf)
        for here in _subsets(need & self._all):
            self._spend(len(value))
            best = np.where((everything & need) == here, value, np.inf)
            for bit in members(self._all & ~need):
                halves = best.reshape(-1, 2, 1 << bit)
                np.minimum(halves[:, 0], halves[:, 1], out=halves[:, 0])
            spent = best[(after & ~need) | here] + self._stage_s(stage, here)
            unmet = need & ~(here | after)
            held = after & (~need | here)
            spent[(unmet & self._blocked[held]) != 0] = np.inf
            passed[after] = np.minimum(passed[after], spent)
        return passed

    def _by_settling(self, value: FloatArray, stage: int, after: Sets) -> FloatArray:
        before = np.flatnonzero(np.isfinite(self._without_dominated(value)))
        spent = self._with_stage(value, stage)[before]
        passed = np.full(len(value), np.inf)
        for i in np.argsort(spent, kind="stable"):
            if not len(after):
                break
            self._spend(len(after))
            reached = self._possible(stage, int(before[i]), after)
            passed[after[reached]] = spent[i]
            after = after[~reached]
        return passed

    def _without_dominated(self, value: FloatArray) -> FloatArray:
        """Infinite where one more expert is carried for no more seconds."""
        kept = value.copy()
        for bit in range(self._n):
            halves = value.reshape(-1, 2, 1 << bit)
            worse = halves[:, 1] <= halves[:, 0]
            kept.reshape(-1, 2, 1 << bit)[:, 0][worse] = np.inf
        return kept

    def _possible(self, stage: int, before: Sets | int, after: Sets | int) -> BoolArray:
        need = self._needs[stage]
        fresh = after & ~(before | need)
        unmet = need & ~(before | after)
        held = np.asarray(before & after)
        return np.asarray((fresh == 0) & ((unmet & self._blocked[held]) == 0))

    def _with_stage(self, value: FloatArray, stage: int) -> FloatArray:
        """(2^m,) what is spent up to and with the stage."""
        total = value + self._stage_s(stage, 0)
        for bit in members(self._needs[stage] & self._all):
            saved = self._problem.coming_s(stage, self._order[bit])
            total.reshape(-1, 2, 1 << bit)[:, 1] -= saved
        return total

    def _stage_s(self, stage: int, here: Mask) -> float:
        return sum(
            self._problem.coming_s(stage, self._order[bit])
            for bit in members(self._needs[stage] & ~here)
        )

    def _local(self, mask: Mask) -> Mask:
        return sum(1 << bit for bit, expert in enumerate(self._order) if mask >> expert & 1)

    def _spend(self, cells: int) -> None:
        self._effort -= cells + 500  # The fixed part is what a round costs however small.
        if self._effort < 0:
            raise _TooMuch


def _conflicts(
    problem: CarryProblem, order: Sequence[int], n_carried: int
) -> tuple[Sets, BoolArray]:
    """For each set the experts that do not fit beside it, and whether the set itself fits."""
    gib = problem.gib[list(order)]
    held = np.zeros((1 << n_carried, gib.shape[1]))
    for bit in range(n_carried):
        held[1 << bit : 2 << bit] = held[: 1 << bit] + gib[bit]
    blocked: Sets = np.zeros(1 << n_carried, dtype=np.int64)
    room = problem.room + EPSILON_GIB
    for bit, row in enumerate(gib):
        lives = row > 0
        over = (held[:, lives] + row[lives] > room[lives]).any(axis=1)
        blocked |= over.astype(np.int64) << bit
    return blocked, np.asarray((held <= room).all(axis=1))


def _union(masks: Sequence[Mask]) -> Mask:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _subsets(mask: Mask) -> list[Mask]:
    subsets, sub = [0], mask
    while sub:
        subsets.append(sub)
        sub = (sub - 1) & mask
    return subsets
