"""Good sets to carry where the exact program is too large: greedy, then exchanges.

Gaps are bridged as long as every stage they touch stays possible, by several orders of worth;
then gaps are exchanged for one or two others, as 2-opt does with the edges of a tour, until
nothing is gained. The same gaps, taken in the order of time, give the snake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import numpy as np

from coe.scheduling.carry import Carry, CarryProblem, Mask
from coe.scheduling.carry_bound import Gap, gaps, most_saved
from coe.scheduling.carry_exact import EFFORT, exact_carry

_TRIES = 1500
"""Exchanges looked at."""


def best_carry(problem: CarryProblem, effort: int = EFFORT) -> Carry:
    """Exact within the effort, else the best found with a bound of what is possible."""
    found = exact_carry(problem, effort)
    return searched_carry(problem) if found is None else found


def searched_carry(problem: CarryProblem) -> Carry:
    """The best found by greedy choices and exchanges."""
    choices = gaps(problem)
    if not choices:
        nobody = (0,) * len(problem.needs)
        cost_s = problem.cost_s(nobody)
        return Carry(nobody, cost_s, cost_s)
    bound_s = load_bound_s(problem)
    found = [_greedy(problem, choices, worth) for worth in _worths(problem)]
    best = min(found, key=lambda carrying: carrying.cost_s())
    if best.cost_s() > bound_s * (1 + 1e-6):
        best.exchange(choices, _TRIES)
    return Carry(tuple(best.carried), best.cost_s(), bound_s)


def load_bound_s(problem: CarryProblem) -> float:
    """No choice has fewer load seconds than this."""
    choices = gaps(problem)
    all_s = problem.cost_s([0] * len(problem.needs))
    return all_s - most_saved(problem, choices, np.array([gap.saves_s for gap in choices]))


def load_count_bound(problem: CarryProblem) -> int:
    """No choice has fewer loads than this."""
    choices = gaps(problem)
    everyone = sum(need.bit_count() for need in problem.needs)
    saved = most_saved(problem, choices, np.ones(len(choices)))
    return everyone - int(np.floor(saved + 1e-6))


def _worths(problem: CarryProblem) -> list[Callable[[Gap], float]]:
    relative = problem.gib / np.maximum(problem.room, 1e-12)
    size = np.maximum(relative.max(axis=1), 1e-12)
    return [
        lambda gap: gap.saves_s / (size[gap.expert] * (gap.before - gap.after)),
        lambda gap: gap.saves_s / size[gap.expert],
        lambda gap: gap.saves_s - 1e6 * (gap.before - gap.after),
        lambda gap: -float(gap.before),
    ]


def _greedy(
    problem: CarryProblem, choices: Sequence[Gap], worth: Callable[[Gap], float]
) -> _Carrying:
    carrying = _Carrying(problem)
    carrying.fill(sorted(choices, key=worth, reverse=True))
    return carrying


class _Carrying:
    """The gaps bridged so far."""

    def __init__(self, problem: CarryProblem) -> None:
        self._problem = problem
        self.carried: list[Mask] = [0] * len(problem.needs)
        self._bridged: set[Gap] = set()

    def cost_s(self) -> float:
        return self._problem.cost_s(self.carried)

    def fill(self, choices: Iterable[Gap]) -> float:
        """Bridges whatever can be; the seconds saved by it."""
        saved_s = 0.0
        for gap in choices:
            if gap not in self._bridged and self._can_be_added(gap):
                saved_s += gap.saves_s
        return saved_s

    def exchange(self, choices: Sequence[Gap], tries: int) -> None:
        """Gives up one or two gaps for others while that saves seconds."""
        ordered = sorted(choices, key=lambda gap: -gap.saves_s)
        improved = True
        while improved and tries > 0:
            improved = False
            for gap in ordered:
                if gap in self._bridged:
                    continue
                rivals = [b for b in self._bridged if _meet(b, gap)]
                rivals.sort(key=lambda b: (b.saves_s, b.expert, b.after))
                for given in [*((b,) for b in rivals), *combinations(rivals[:12], 2)]:
                    tries -= 1
                    if self._is_exchanged(gap, given, ordered):
                        improved = True
                        break
                if tries <= 0:
                    return

    def _is_exchanged(self, gap: Gap, given: Sequence[Gap], ordered: Sequence[Gap]) -> bool:
        kept, bridged = list(self.carried), set(self._bridged)
        for one in given:
            self._set(one, False)
        saved_s = -sum(one.saves_s for one in given)
        if self._can_be_added(gap):
            saved_s += gap.saves_s
            near = [g for g in ordered if any(_meet(g, one) for one in given)]
            saved_s += self.fill(near)
        if saved_s > 1e-9 and self._is_possible(0, len(kept)):
            return True
        self.carried, self._bridged = kept, bridged
        return False

    def _can_be_added(self, gap: Gap) -> bool:
        """Bridges the gap if all stages it touches stay possible."""
        self._set(gap, True)
        if self._is_possible(max(gap.after, 0), gap.before + 1):
            return True
        self._set(gap, False)
        return False

    def _is_possible(self, first: int, end: int) -> bool:
        following = [*self.carried[1:], 0]
        return all(
            self._problem.is_possible(stage, self.carried[stage], following[stage])
            for stage in range(first, end)
        )

    def _set(self, gap: Gap, bridged: bool) -> None:
        bit = 1 << gap.expert
        for stage in range(gap.after + 1, gap.before + 1):
            self.carried[stage] = (
                self.carried[stage] | bit if bridged else (self.carried[stage] & ~bit)
            )
        (self._bridged.add if bridged else self._bridged.discard)(gap)


def _meet(one: Gap, other: Gap) -> bool:
    """Whether both touch some stage."""
    return one.after <= other.before and other.after <= one.before
