"""Balanced assignment of a batch: one expert for each query, no expert above its capacity.

Three ways to maximise the total score. `exact_assignment` solves the assignment problem with
columns repeated by capacity. `sinkhorn_assignment` solves its entropic relaxation in the log
domain and rounds. `balance_sparse` has the third, in which a query spreads over few experts.
Live traffic, where there is no batch, is balanced by `balance_online`.

Capacities are upper limits, not quotas: with room for everyone each query gets its best expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError, RoutingError
from coe.outcomes import FloatArray, IntArray

EPSILON = 0.01
"""Default blur of the relaxation, in units of score."""


@dataclass(frozen=True, slots=True, eq=False)
class TransportPlan:
    """Shares of each query over the experts, before rounding."""

    shares: FloatArray
    """(n_queries, n_experts), rows sum to 1."""
    prices: FloatArray
    """(n_experts,) what a place costs, in score; 0 for experts that are not full."""
    excess: float
    """Largest overflow of a capacity, as a share of it: about the tolerance once converged."""
    n_iterations: int


def exact_assignment(scores: FloatArray, capacities: IntArray) -> IntArray:
    """(n_queries,) columns of the assignment of the highest total score.

    Raises `RoutingError` if the queries are more than the places.
    """
    checked_capacities(scores, capacities)
    first: IntArray = scores.argmax(axis=1)
    if (np.bincount(first, minlength=len(capacities)) <= capacities).all():
        return first
    from scipy.optimize import linear_sum_assignment

    places = np.repeat(np.arange(len(capacities)), np.minimum(capacities, len(scores)))
    _, columns = linear_sum_assignment(scores[:, places], maximize=True)
    assigned: IntArray = places[columns]
    return assigned


def sinkhorn_assignment(
    scores: FloatArray, capacities: IntArray, epsilon: float = EPSILON, tolerance: float = 1e-3
) -> IntArray:
    """(n_queries,) columns: a rounded `sinkhorn_plan`, never above a capacity."""
    plan = sinkhorn_plan(scores, capacities, epsilon, tolerance)
    return rounded(scores, capacities, plan.prices)


def sinkhorn_plan(
    scores: FloatArray,
    capacities: IntArray,
    epsilon: float = EPSILON,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
) -> TransportPlan:
    """The shares that maximise total score + epsilon · entropy within the capacities.

    Sinkhorn's alternating scaling, in the log domain, with prices that may not fall below 0
    because capacities are upper limits. Starts with a blur of the scores' whole range and
    halves it down to epsilon, each stage from the last one's prices. Deterministic.
    """
    checked_capacities(scores, capacities)
    if not epsilon > 0 or not tolerance > 0:
        raise ConfigError("epsilon and tolerance must be above 0")
    prices: FloatArray = np.zeros(scores.shape[1])
    log_capacities = np.full(len(capacities), -np.inf)
    np.log(capacities, out=log_capacities, where=capacities > 0)
    blur = max(epsilon, float(np.ptp(scores))) if scores.size else epsilon
    n_iterations = 0
    while True:
        # Coarse stages only need good prices to start the next one from.
        tolerated = tolerance if blur == epsilon else max(tolerance, 0.05)
        prices, used = _scaled(
            scores / blur, log_capacities, prices / blur, tolerated, max_iterations
        )
        prices, n_iterations = prices * blur, n_iterations + used
        if blur == epsilon:
            break
        blur = max(epsilon, blur / 2)
    shares = _softmax((scores - prices) / epsilon)
    return TransportPlan(shares, prices, relative_excess(shares, capacities), n_iterations)


def rounded(scores: FloatArray, capacities: IntArray, prices: FloatArray) -> IntArray:
    """(n_queries,) columns near the priced optimum, never above a capacity.

    In rounds: each query asks the open expert with the best score less price, and an expert
    with too few places takes those that would lose most elsewhere. Each round fills an expert or
    ends. Then queries move to a free place, or two change places, while that gains.
    """
    checked_capacities(scores, capacities)
    assigned = np.full(len(scores), -1)
    free = capacities.astype(np.int64).copy()
    waiting = np.arange(len(scores))
    while len(waiting):
        priced = np.where(free > 0, scores[waiting] - prices, -np.inf)
        choice = priced.argmax(axis=1)
        best = priced[np.arange(len(waiting)), choice]
        priced[np.arange(len(waiting)), choice] = -np.inf
        loss = best - priced.max(axis=1)  # infinite where no other expert is open
        for expert in np.unique(choice):
            asking = np.flatnonzero(choice == expert)
            taken = asking[np.argsort(-loss[asking], kind="stable")[: free[expert]]]
            assigned[waiting[taken]] = expert
            free[expert] -= len(taken)
        waiting = waiting[assigned[waiting] < 0]
    return _improved(scores, assigned, free)


def relative_excess(shares: FloatArray, capacities: IntArray) -> float:
    """How far the fullest expert is over its capacity, as a share of it; 0 if none is."""
    loads = shares.sum(axis=0)
    return float(np.maximum((loads - capacities) / np.maximum(capacities, 1), 0.0).max())


def checked_capacities(scores: FloatArray, capacities: IntArray) -> None:
    """Raises `RoutingError` if there are fewer places than queries, `ConfigError` if malformed."""
    if scores.ndim != 2 or capacities.shape != scores.shape[1:]:
        raise ConfigError(
            f"capacities of shape {capacities.shape} for scores of shape {scores.shape}; "
            "give one for each expert"
        )
    if not np.isfinite(scores).all():
        raise ConfigError("scores must be finite")
    if not np.issubdtype(capacities.dtype, np.integer) or (capacities < 0).any():
        raise ConfigError("capacities must be whole numbers, not negative")
    places = int(capacities.sum())
    if places < len(scores):
        raise RoutingError(
            f"{len(scores)} queries for {places} places; raise the capacities by "
            f"{len(scores) - places} or leave as many queries for the next batch"
        )


def _scaled(
    scores: FloatArray,
    log_capacities: FloatArray,
    prices: FloatArray,
    tolerance: float,
    max_iterations: int,
) -> tuple[FloatArray, int]:
    """Prices (in units of the blur) at which loads keep to capacities, and the steps taken."""
    if not len(scores):
        return prices, 0
    # An expert without places stays out: any price that makes its shares vanish will do.
    closed = np.isneginf(log_capacities)
    prices = np.where(closed, np.ptp(scores) + 50.0 + np.log(len(scores)), prices)
    for step in range(1, max_iterations + 1):
        priced = scores - prices
        log_rows = _logsumexp(priced, axis=1)
        log_loads = _logsumexp(priced - log_rows[:, None], axis=0)
        overflow = np.where(closed, 0.0, log_loads - log_capacities)
        moved = np.where(closed, prices, np.maximum(prices + overflow, 0.0))
        # A full expert must be at its capacity, one with a free place must have price 0.
        if np.abs(moved - prices).max() <= tolerance:
            return prices, step
        prices = moved
    return prices, max_iterations


def _improved(scores: FloatArray, assigned: IntArray, free: IntArray) -> IntArray:
    """Takes the best single move or swap between each pair of experts until none gains."""
    n_experts = scores.shape[1]
    assigned, free = assigned.copy(), free.copy()
    for _ in range(4 * len(scores)):
        own = scores[np.arange(len(scores)), assigned]
        gains = scores - own[:, None]  # of moving each query to each expert
        # (from, to): the query that gains most, or loses least, by such a move.
        best = np.full((n_experts, n_experts), -np.inf)
        who = np.full((n_experts, n_experts), -1)
        for source in np.unique(assigned):
            members = np.flatnonzero(assigned == source)
            top = gains[members].argmax(axis=0)
            who[source] = members[top]
            best[source] = gains[members[top], np.arange(n_experts)]
        np.fill_diagonal(best, -np.inf)
        moves = np.where(free > 0, best, -np.inf)
        swaps = best + best.T
        use_moves = moves.max() >= swaps.max()
        table = moves if use_moves else swaps
        source, target = np.unravel_index(int(table.argmax()), table.shape)
        if table[source, target] <= 1e-12:
            break
        if use_moves:
            free[source] += 1
            free[target] -= 1
        else:
            assigned[who[target, source]] = source
        assigned[who[source, target]] = target
    return assigned


def _softmax(raw: FloatArray) -> FloatArray:
    shares: FloatArray = np.exp(raw - _logsumexp(raw, axis=1)[:, None]) if len(raw) else raw
    return shares


def _logsumexp(raw: FloatArray, axis: int) -> FloatArray:
    top = raw.max(axis=axis, keepdims=True)
    summed: FloatArray = np.log(np.exp(raw - top).sum(axis=axis)) + top.squeeze(axis)
    return summed
