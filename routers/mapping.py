"""Which expert serves which category: an exact mixed-integer program under size budgets.

Composition of Experts (arXiv 2412.01868) maps categories to experts by a mixed-integer linear
program with a parameter budget. That it does so is confirmed; the program below is our reading,
since the paper's own equations were not at hand:

    max   sum_c share[c] sum_e rate[c,e] x[c,e]
    s.t.  sum_e x[c,e] = 1,  x[c,e] <= z[e],  sum_e size[e] z[e] <= total,
          sum_c share[c] sum_e active[e] x[c,e] <= average

Among mappings of the best quality the one with the smallest open experts is taken, by a second
program that holds the quality fixed. Solved by HiGHS through scipy, when fitting only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Names
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coe.errors import ConfigError
from coe.experts import ExpertPool
from coe.routing import FloatArray

_TOLERANCE = 1e-9
"""Quality given up, at most, for smaller experts; far below what outcomes can tell apart."""


@dataclass(frozen=True, slots=True, eq=False)
class MappingProblem:
    """Rates of success by category and expert, and what the experts may occupy."""

    rates: FloatArray
    """(n_categories, n_experts)."""
    shares: FloatArray
    """(n_categories,) share of the queries, adding up to 1."""
    sizes: FloatArray
    """(n_experts,) what opening an expert takes of the total: its parameters, or memory."""
    total_budget: float = math.inf
    """Most that all open experts may take together, in the unit of `sizes`."""
    active: FloatArray | None = None
    """(n_experts,) what one query costs: active parameters or money; None means `sizes`."""
    average_budget: float = math.inf
    """Most that a query may cost on average over the shares."""

    @property
    def per_query(self) -> FloatArray:
        return self.sizes if self.active is None else self.active


@dataclass(frozen=True, slots=True)
class SizeBudget:
    """What the experts occupy and how much of it there is; the default limits nothing."""

    sizes: Names[str, float] = field(default_factory=dict)
    """By expert id, in any one unit: billions of parameters, or GiB."""
    total: float = math.inf
    """Most that all experts in use may take together."""
    active: Names[str, float] | None = None
    """What one query costs, by expert id: active parameters or dollars; None means `sizes`."""
    average: float = math.inf
    """Most that a query may cost on average."""

    @classmethod
    def of_parameters(
        cls, pool: ExpertPool, total: float = math.inf, average: float = math.inf
    ) -> SizeBudget:
        """Sizes are the pool's active parameters, in billions, which must all be known."""
        unknown = [expert.id for expert in pool if expert.params_active_b is None]
        if unknown:
            raise ConfigError(
                f"params_active_b is not known of {', '.join(unknown)}; state it to budget by it"
            )
        sizes = {expert.id: expert.params_active_b or 0.0 for expert in pool}
        return cls(sizes, total, None, average)

    def problem(
        self, rates: FloatArray, shares: FloatArray, expert_ids: Sequence[str]
    ) -> MappingProblem:
        """The mapping to solve; sizes left out altogether count as nothing."""
        limited = math.isfinite(self.total) or (math.isfinite(self.average) and self.active is None)
        sizes = _column(self.sizes, expert_ids, "size", required=limited or bool(self.sizes))
        active = None if self.active is None else _column(self.active, expert_ids, "active size")
        return MappingProblem(rates, shares, sizes, self.total, active, self.average)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One expert for each category."""

    expert_of: tuple[int, ...]
    """Column of the expert that serves each category."""
    quality: float
    """Expected rate of success over the shares."""
    total_size: float
    """What the experts in use take together."""
    average_active: float
    """What a query costs on average."""

    @property
    def open_experts(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.expert_of)))


def solve_mapping(problem: MappingProblem) -> Mapping:
    """The mapping of the highest quality within the budgets, the smallest of equals.

    Raises `ConfigError` if no mapping fits.
    """
    n_categories, n_experts = problem.rates.shape
    gains = np.concatenate([(problem.shares[:, None] * problem.rates).ravel(), np.zeros(n_experts)])
    sizes = np.concatenate([np.zeros(n_categories * n_experts), problem.sizes])
    constraints = _constraints(problem)
    best = _minimize(-gains, constraints)
    if best is None:
        raise ConfigError(
            f"no mapping fits a total of {problem.total_budget:g} and an average of "
            f"{problem.average_budget:g}: the smallest expert takes {problem.sizes.min():g} and "
            f"the cheapest {problem.per_query.min():g} a query; raise the budget"
        )
    reached = float(gains @ best)
    if problem.sizes.any():
        smaller = _minimize(sizes, [*constraints, (gains[None], reached - _TOLERANCE, np.inf)])
        best = best if smaller is None else smaller
    chosen = best[: n_categories * n_experts].reshape(n_categories, n_experts).argmax(axis=1)
    return evaluated(problem, chosen.tolist())


def evaluated(problem: MappingProblem, expert_of: Sequence[int]) -> Mapping:
    """What a given mapping brings and takes, whether or not it fits the budgets."""
    columns = np.array(expert_of, dtype=np.intp)
    rates = problem.rates[np.arange(len(columns)), columns]
    return Mapping(
        tuple(int(column) for column in columns),
        float(problem.shares @ rates),
        float(problem.sizes[np.unique(columns)].sum()),
        float(problem.shares @ problem.per_query[columns]),
    )


def frontier(problem: MappingProblem, total_budgets: Sequence[float]) -> list[Mapping]:
    """The best mapping at each total budget, in the order given."""
    return [solve_mapping(replace(problem, total_budget=budget)) for budget in total_budgets]


def _constraints(problem: MappingProblem) -> list[tuple[Any, Any, Any]]:
    """Rows, lower and upper bounds over (x[c,e] …, z[e] …)."""
    from scipy import sparse

    n_categories, n_experts = problem.rates.shape
    one_each = sparse.kron(sparse.eye_array(n_categories), np.ones((1, n_experts)))
    only_open = sparse.hstack(
        [
            sparse.eye_array(n_categories * n_experts),
            -sparse.kron(np.ones((n_categories, 1)), sparse.eye_array(n_experts)),
        ]
    )
    blank = sparse.csr_array((n_categories, n_experts))
    rows: list[tuple[Any, Any, Any]] = [
        (sparse.hstack([one_each, blank]), 1.0, 1.0),
        (only_open, -np.inf, 0.0),
    ]
    if math.isfinite(problem.total_budget):
        taken = np.concatenate([np.zeros(n_categories * n_experts), problem.sizes])
        rows.append((taken[None], -np.inf, problem.total_budget))
    if math.isfinite(problem.average_budget):
        spent = (problem.shares[:, None] * problem.per_query[None]).ravel()
        row = np.concatenate([spent, np.zeros(n_experts)])
        rows.append((row[None], -np.inf, problem.average_budget))
    return rows


def _minimize(objective: FloatArray, constraints: Sequence[tuple[Any, Any, Any]]) -> Any:
    """The 0/1 solution, or None where none is feasible."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    done = milp(
        objective,
        constraints=[LinearConstraint(*row) for row in constraints],
        integrality=np.ones(len(objective)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return None if done.x is None else np.round(done.x)


def _column(
    values: Names[str, float], expert_ids: Sequence[str], what: str, required: bool = True
) -> FloatArray:
    missing = [id_ for id_ in expert_ids if id_ not in values]
    if missing and required:
        raise ConfigError(f"no {what} is known of {', '.join(missing)}; state it to budget by it")
    return np.array([values.get(id_, 0.0) for id_ in expert_ids], dtype=float)
