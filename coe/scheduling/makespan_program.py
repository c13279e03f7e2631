"""Jobs on machines by an integer program: exact, for small instances or when seconds are free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from coe.scheduling.makespan import Balance, Job, Part, balanced, makespan_s


def program_balance(
    jobs: Sequence[Job], busy_s: Sequence[float], time_limit_s: float = 10.0
) -> Balance:
    """The best way found in the time, never worse than `balanced`, with its bound.

    Variables: whether a machine works at a job, the share it does, and the makespan.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    known = balanced(jobs, busy_s)
    cells = [(j, m) for j, job in enumerate(jobs) for m in job.machines]
    n = len(cells)
    done = milp(
        np.concatenate([np.zeros(2 * n), [1.0]]),
        constraints=[LinearConstraint(*rows) for rows in _rows(jobs, busy_s, cells)],
        integrality=np.concatenate([np.ones(n), np.zeros(n + 1)]),
        bounds=Bounds(
            np.concatenate([np.zeros(2 * n), [known.bound_s]]),
            np.concatenate([np.ones(2 * n), [np.inf]]),
        ),
        options={"mip_rel_gap": 1e-9, "time_limit": time_limit_s},
    )
    if done.x is None:
        return known
    used = [(j, m, float(done.x[n + i])) for i, (j, m) in enumerate(cells) if done.x[i] > 0.5]
    total = [sum(share for k, _, share in used if k == j) for j in range(len(jobs))]
    parts = tuple(
        Part(j, m, share / total[j] if total[j] > 0 else 1.0)
        for j, m, share in used
        if share > 1e-9 or jobs[j].work_s == 0.0
    )
    ends_s = makespan_s(jobs, parts, busy_s)
    bound_s = min(ends_s, max(known.bound_s, float(done.mip_dual_bound)))
    if known.makespan_s < ends_s:
        return Balance(known.parts, known.makespan_s, min(bound_s, known.makespan_s))
    return Balance(parts, ends_s, bound_s)


def _rows(
    jobs: Sequence[Job], busy_s: Sequence[float], cells: Sequence[tuple[int, int]]
) -> list[tuple[Any, Any, Any]]:
    """Constraints over (works at …, share …, makespan)."""
    n = len(cells)
    whole = np.zeros((len(jobs), 2 * n + 1))
    parts = np.zeros((len(jobs), 2 * n + 1))
    spent = np.zeros((len(busy_s), 2 * n + 1))
    linked = np.zeros((n, 2 * n + 1))
    spent[:, 2 * n] = -1.0
    for i, (j, m) in enumerate(cells):
        whole[j, n + i] = 1.0
        parts[j, i] = 1.0
        spent[m, i] = jobs[j].setups_s[m]
        spent[m, n + i] = jobs[j].work_s
        linked[i, n + i] = 1.0
        linked[i, i] = -1.0
    most = [float(job.max_parts) for job in jobs]
    return [
        (whole, 1.0, 1.0),
        (parts, 1.0, most),
        (spent, -math.inf, [-busy for busy in busy_s]),
        (linked, -math.inf, 0.0),
    ]
