"""The best sets to carry as an integer program, for instances too large for tables.

One variable a gap bridged, and one for each expert that is both carried into a stage that
needs it and out of it again. Solved by HiGHS through scipy, which is imported only here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coe.scheduling.carry import Carry, CarryProblem, members
from coe.scheduling.carry_bound import Gap, gaps


def program_carry(problem: CarryProblem, time_limit_s: float = 10.0) -> Carry | None:
    """The best choice found in the time and its bound; None if none was found."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = gaps(problem)
    all_s = problem.cost_s([0] * len(problem.needs))
    if not choices:
        return Carry((0,) * len(problem.needs), all_s, all_s)
    rows, most = _rows(problem, choices)
    saves = np.zeros(rows.shape[1])
    saves[: len(choices)] = [gap.saves_s for gap in choices]
    done = milp(
        -saves,
        constraints=LinearConstraint(rows, -np.inf, most),
        integrality=np.ones(len(saves)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": time_limit_s},
    )
    if done.x is None:
        return None
    carried = [0] * len(problem.needs)
    for gap, bridged in zip(choices, done.x, strict=False):
        if bridged > 0.5:
            for stage in range(gap.after + 1, gap.before + 1):
                carried[stage] |= 1 << gap.expert
    cost_s = problem.cost_s(carried)
    bound_s = all_s + float(done.mip_dual_bound)
    return Carry(tuple(carried), cost_s, min(cost_s, bound_s) if done.status else cost_s)


def _rows(problem: CarryProblem, choices: list[Gap]) -> tuple[Any, Any]:
    """Constraints over (gaps …, both-ways …), each row at most its right-hand side."""
    ends = {
        (stage, expert): [
            i for i, g in enumerate(choices) if g.expert == expert and stage in (g.after, g.before)
        ]
        for stage, need in enumerate(problem.needs)
        for expert in members(need)
    }
    both = [key for key, touching in ends.items() if len(touching) == 2]
    column = {key: len(choices) + i for i, key in enumerate(both)}
    width = len(choices) + len(both)
    rows: list[Any] = []
    most: list[float] = []
    for stage in range(len(problem.needs)):
        for device, room in enumerate(problem.room):
            carried, held = _memory(problem, choices, stage, device, width)
            for (at, expert), i in column.items():
                if at == stage:
                    held[i] = problem.gib[expert, device]
            rows.append(carried)
            most.append(room)
            for expert in members(problem.needs[stage]):
                if problem.gib[expert, device] > 0.0:
                    beside = held.copy()
                    beside[ends[stage, expert]] -= problem.gib[expert, device]
                    rows.append(beside)
                    most.append(room - problem.gib[expert, device])
    for key, i in column.items():
        linked = np.zeros(width)
        linked[ends[key]] = 1.0
        linked[i] = -1.0
        rows.append(linked)
        most.append(1.0)
    return np.array(rows), np.array(most)


def _memory(
    problem: CarryProblem, choices: list[Gap], stage: int, device: int, width: int
) -> tuple[Any, Any]:
    """(width,) what each gap takes at the beginning of a stage, and all through it."""
    carried, held = np.zeros(width), np.zeros(width)
    for i, gap in enumerate(choices):
        if gap.after < stage <= gap.before:
            carried[i] = problem.gib[gap.expert, device]
            held[i] = carried[i] if stage < gap.before else 0.0
    return carried, held
