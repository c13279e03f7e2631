"""Homes by an integer program: exact within its time. HiGHS through scipy, imported only here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coe.scheduling.placement import Home, Ledger


def program_homes(ledger: Ledger, time_limit_s: float) -> tuple[dict[str, Home] | None, float]:
    """The best homes found in the time, None if none were, and a bound of the objective.

    Variables: each expert's home, whether two experts are swapped on the same device, and the
    busiest device's seconds.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    program = _Program(ledger)
    n = program.width
    integral = np.zeros(n)
    integral[: len(program.homes)] = 1.0
    upper = np.ones(n)
    upper[-1] = np.inf
    lower = np.zeros(n)
    lower[-1] = ledger.bound_s()
    done = milp(
        program.objective(),
        constraints=[LinearConstraint(*rows) for rows in program.constraints()],
        integrality=integral,
        bounds=Bounds(lower, upper),
        options={"mip_rel_gap": 1e-9, "time_limit": time_limit_s},
    )
    bound_s = done.mip_dual_bound
    bound_s = 0.0 if bound_s is None or not math.isfinite(bound_s) else float(bound_s)
    if done.x is None:
        return None, bound_s
    chosen = {e: home for (e, home), x in zip(program.homes, done.x, strict=False) if x > 0.5}
    return chosen, bound_s


class _Program:
    """Columns: homes, pairs swapped on a device, and at last the busiest device."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.homes = [
            (tenant.expert_id, home)
            for tenant in ledger.tenants.values()
            for home in ledger.options(tenant)
        ]
        self._pairs = [
            (one, other, device, seconds)
            for one, others in ledger.swaps_s.items()
            for other, seconds in others.items()
            for device in ledger.site.devices
            if one < other and seconds > 0.0
        ]
        self.width = len(self.homes) + len(self._pairs) + 1

    def objective(self) -> Any:
        """The busiest device, and all swapping."""
        seconds = np.zeros(self.width)
        seconds[-1] = 1.0
        for i, pair in enumerate(self._pairs, len(self.homes)):
            seconds[i] = pair[3]
        return seconds

    def constraints(self) -> list[tuple[Any, Any, Any]]:
        """Rows, lower and upper bounds."""
        return [self._one_home(), self._swapped_together(), *self._devices()]

    def _one_home(self) -> tuple[Any, Any, Any]:
        index = {expert_id: i for i, expert_id in enumerate(self._ledger.tenants)}
        rows = np.zeros((len(index), self.width))
        for i, (expert_id, _) in enumerate(self.homes):
            rows[index[expert_id], i] = 1.0
        return rows, 1.0, 1.0

    def _swapped_together(self) -> tuple[Any, Any, Any]:
        """A pair is swapped on a device if both of its experts are."""
        rows = np.zeros((max(1, len(self._pairs)), self.width))
        for row, (one, other, device, _) in zip(rows, self._pairs, strict=False):
            for i, (expert_id, home) in enumerate(self.homes):
                if expert_id in (one, other) and self._is_swapped(home, device):
                    row[i] = 1.0
        for k in range(len(self._pairs)):
            rows[k, len(self.homes) + k] = -1.0
        return rows, -math.inf, 1.0

    def _devices(self) -> list[tuple[Any, Any, Any]]:
        """Kept experts and any one of the swapped fit; nobody is busier than the busiest."""
        ledger = self._ledger
        fits: list[Any] = []
        room: list[float] = []
        busy = np.zeros((len(ledger.site.devices), self.width))
        busy[:, -1] = -1.0
        for row, (device, budget) in zip(busy, ledger.site.devices.items(), strict=True):
            kept = np.zeros(self.width)
            for i, (expert_id, home) in enumerate(self.homes):
                if device in home.devices:
                    row[i] = ledger.work_s[expert_id]
                    kept[i] = ledger.tenants[expert_id].gib if home.is_kept else 0.0
            for i, pair in enumerate(self._pairs, len(self.homes)):
                row[i] = pair[3] if pair[2] == device else 0.0
            for expert_id, tenant in ledger.tenants.items():
                beside = kept.copy()
                for i, (other, home) in enumerate(self.homes):
                    if other == expert_id and self._is_swapped(home, device):
                        beside[i] = tenant.gib
                fits.append(beside)
                room.append(budget)
        return [(np.array(fits), -math.inf, np.array(room)), (busy, -math.inf, 0.0)]

    def _is_swapped(self, home: Home, device: str) -> bool:
        return device in home.devices and not home.is_kept
