"""A floor under the load seconds of any choice of what to carry, without solving a program.

To carry an expert from one use to its next is a gap bridged: it saves one load and takes
room at every boundary on the way. Prices on room make each gap profitable or not by itself
(Lagrangian relaxation), so for any prices the sum of profits and of all room sold is an upper
bound of what can be saved; the prices are improved by subgradient steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from coe.outcomes import FloatArray
from coe.scheduling.carry import CarryProblem, members

_ROUNDS = 150


@dataclass(frozen=True, slots=True)
class Gap:
    """One expert between two uses in a row; carried over it, it need not be loaded again."""

    expert: int
    after: int
    """The stage it was used in; -1: it is there at the start."""
    before: int
    """The stage that needs it next."""
    saves_s: float


def gaps(problem: CarryProblem) -> list[Gap]:
    """Every load that carrying could save."""
    found = []
    for expert in range(problem.n_experts):
        uses = problem.uses(expert)
        if problem.start >> expert & 1:
            uses = [-1, *uses]
        for after, before in pairwise(uses):
            found.append(Gap(expert, after, before, problem.coming_s(before, expert)))
    return found


def most_saved(problem: CarryProblem, choices: Sequence[Gap], saves: FloatArray) -> float:
    """At least what the best choice of gaps saves, if they save (n_gaps,) each."""
    if not choices:
        return 0.0
    takes, room = _constraints(problem, choices)
    best = float(saves.sum())
    prices = np.zeros(len(room))
    step = 1.0
    stale = 0
    for _ in range(_ROUNDS):
        chosen = saves - takes @ prices > 0
        value = float(prices @ room + (saves - takes @ prices)[chosen].sum())
        stale = 0 if value < best - 1e-12 else stale + 1
        best = min(best, value)
        if stale > 8:
            step, stale = step / 2, 0
        slope = room - takes[chosen].sum(axis=0)
        active = slope * (prices > 0) + np.minimum(slope, 0.0) * (prices <= 0)
        norm = float(active @ active)
        if norm < 1e-18:
            break
        # A hundredth of the savings stands in for the unknown distance to the best prices.
        prices = np.maximum(0.0, prices - step * (0.05 * best + 1e-12) / norm * active)
    return best


def _constraints(problem: CarryProblem, choices: Sequence[Gap]) -> tuple[FloatArray, FloatArray]:
    """(n_gaps, n_rows) what each gap takes and (n_rows,) how much there is.

    A row for each boundary and device: what is carried fits. And one for each stage, expert in
    it and device: beside those who are held throughout there is room for an expert that is
    neither carried in nor out.
    """
    n_devices = len(problem.room)
    columns: list[FloatArray] = []
    rooms: list[FloatArray] = []
    sizes = problem.gib[[gap.expert for gap in choices]]
    after = np.array([gap.after for gap in choices])
    before = np.array([gap.before for gap in choices])
    experts = np.array([gap.expert for gap in choices])
    for stage, need in enumerate(problem.needs):
        crossing = (after < stage) & (before >= stage)
        columns.append(sizes * crossing[:, None])
        rooms.append(problem.room)
        held = sizes * ((after < stage) & (before > stage))[:, None]
        for expert in _hardest(problem, need, choices, stage):
            own = ((experts == expert) & ((after == stage) | (before == stage)))[:, None]
            lives = problem.gib[expert] > 0
            columns.append((held - own * problem.gib[expert]) * lives)
            rooms.append((problem.room - problem.gib[expert]) * lives)
    takes = np.concatenate(columns, axis=1)
    room = np.concatenate(rooms)
    assert takes.shape == (len(choices), n_devices * len(rooms))
    scale = np.maximum(1e-12, np.abs(takes).max(axis=0))
    return takes / scale, room / scale


def _hardest(problem: CarryProblem, need: int, choices: Sequence[Gap], stage: int) -> list[int]:
    """Experts of a stage whose rows matter.

    On each device the largest that nothing can carry, and all that could be and are larger.
    """
    able = {gap.expert for gap in choices if stage in (gap.after, gap.before)}
    kept: set[int] = set()
    for device in range(len(problem.room)):
        here = [e for e in members(need) if problem.gib[e, device] > 0]
        here.sort(key=lambda e: -problem.gib[e, device])
        for expert in here:
            kept.add(expert)
            if expert not in able:
                break
    return sorted(kept)
