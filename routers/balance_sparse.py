"""Balanced shares in which a query spreads over at most k experts.

Sparsity-constrained optimal transport (Liu, Puigcerver and Blondel, arXiv 2209.15466): quadratic
regularisation under a cardinality limit, solved by its semi-dual in the experts' prices alone. A
row of the plan is its priced scores' k largest, projected onto the simplex. The row problems are
not convex, but their conjugates are easy, and the semi-dual is convex and piecewise smooth.

The plan read off the prices keeps to the capacities unless a row is tied at its k-th place, which
is common for k = 1. It is then replaced by the best plan on the same few experts (a linear
programme), or, where those have no room, by whole queries as `balance.rounded` places them.
"""

from __future__ import annotations

import numpy as np

from coe.errors import ConfigError
from coe.outcomes import FloatArray, IntArray
from coe.routers.balance import TransportPlan, checked_capacities, relative_excess, rounded


def sparse_plan(
    scores: FloatArray,
    capacities: IntArray,
    k: int,
    gamma: float = 0.1,
    tolerance: float = 1e-3,
) -> TransportPlan:
    """Shares of at most k experts a query that maximise score − gamma/2 · squared shares.

    Smaller gamma means fewer experts a query. No capacity is exceeded by more than `tolerance`
    of itself. Raises `RoutingError` if the queries are more than the places.
    """
    checked_capacities(scores, capacities)
    if not 1 <= k <= scores.shape[1]:
        raise ConfigError(f"k is {k}; give 1 to {scores.shape[1]}, the number of experts")
    if not gamma > 0 or not tolerance > 0:
        raise ConfigError("gamma and tolerance must be above 0")
    prices, n_iterations = _prices(scores, capacities, k, gamma)
    shares = top_k_simplex((scores - prices) / gamma, k)
    if relative_excess(shares, capacities) > tolerance:
        shares = _repaired(scores, capacities, shares, prices)
    return TransportPlan(shares, prices, relative_excess(shares, capacities), n_iterations)


def top_k_simplex(raw: FloatArray, k: int) -> FloatArray:
    """The nearest point of the simplex with at most k entries, row by row.

    It is the projection of the k largest entries alone; equals go to the earlier column.
    """
    columns = np.argsort(-raw, axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(raw, columns, axis=1)  # descending
    sums = np.cumsum(top, axis=1) - 1.0
    counts = np.arange(1, k + 1)
    support = (top * counts > sums).sum(axis=1, keepdims=True)
    cut = np.take_along_axis(sums, support - 1, axis=1) / support
    shares = np.zeros_like(raw, dtype=np.float64)
    np.put_along_axis(shares, columns, np.maximum(top - cut, 0.0), axis=1)
    return shares


def _prices(
    scores: FloatArray, capacities: IntArray, k: int, gamma: float
) -> tuple[FloatArray, int]:
    """Minimises the semi-dual: prices · capacities + Σ over queries of the priced optimum."""
    from scipy.optimize import minimize

    def semi_dual(prices: FloatArray) -> tuple[float, FloatArray]:
        priced = scores - prices
        shares = top_k_simplex(priced / gamma, k)
        won = (shares * priced).sum() - 0.5 * gamma * (shares**2).sum()
        return float(prices @ capacities + won), capacities - shares.sum(axis=0)

    # No price needs to exceed what the best query would pay over its worst alternative.
    highest = (float(np.ptp(scores)) if scores.size else 0.0) + 2 * gamma
    found = minimize(
        semi_dual,
        np.zeros(len(capacities)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, highest)] * len(capacities),
        options={"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-6},
    )
    prices: FloatArray = found.x
    return prices, int(found.nit)


def _repaired(
    scores: FloatArray, capacities: IntArray, shares: FloatArray, prices: FloatArray
) -> FloatArray:
    """A plan within the capacities: on the support of `shares` if it can be, else whole."""
    rows, columns = np.nonzero(shares > 0)
    found = _linear_programme(scores[rows, columns], rows, columns, capacities, len(scores))
    repaired = np.zeros_like(shares)
    if found is not None:
        repaired[rows, columns] = np.maximum(found, 0.0)
        repaired /= repaired.sum(axis=1, keepdims=True)
        return repaired
    repaired[np.arange(len(scores)), rounded(scores, capacities, prices)] = 1.0
    return repaired


def _linear_programme(
    gains: FloatArray, rows: IntArray, columns: IntArray, capacities: IntArray, n_queries: int
) -> FloatArray | None:
    """Shares of the given cells of the highest total gain; None if they have no room."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    cells = np.arange(len(rows))
    ones = np.ones(len(rows))
    found = linprog(
        -gains,
        A_eq=csr_matrix((ones, (rows, cells)), shape=(n_queries, len(rows))),
        b_eq=np.ones(n_queries),
        A_ub=csr_matrix((ones, (columns, cells)), shape=(len(capacities), len(rows))),
        b_ub=capacities,
        method="highs",
    )
    if found.status != 0:
        return None
    shares: FloatArray = np.asarray(found.x)
    return shares
