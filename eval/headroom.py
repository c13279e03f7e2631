"""How much of the oracle's lead routing could ever earn, and how much is only luck of the draw.

The oracle takes the best expert of each query in hindsight. Even if experts differed in nothing but
ability, and queries in nothing but difficulty, some expert would be right where the best one is
wrong, by chance alone, and no router could know which. The Rasch model says how often: expert j is
right on query q with probability 1 / (1 + exp(d_q - a_j)), independently of the others. Abilities
and the spread of difficulties, which are normal, are fitted together (marginal maximum likelihood
by EM, Bock & Aitkin 1981), so that no query's difficulty has to be estimated from its few answers.
The distribution is not left free: a free one fits the share of queries that nobody answers exactly,
whatever the experts are, and would explain any oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import FloatArray, OutcomeTable

_GRID = np.linspace(-15.0, 15.0, 151)
"""Of difficulties."""
_MOST_STEPS = 2000
_SETTLED = 1e-6
_EDGE = 8.0
"""Abilities stay within, also those of experts that are always right or wrong."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """Accuracies on the queries that every expert was measured on."""

    n_queries: int
    best_single: float
    """Of the expert that is best on these very queries."""
    oracle: float
    expected_oracle: float
    """What the oracle would reach if experts erred independently, given a query's difficulty."""

    @property
    def explained(self) -> float:
        """The part of the oracle's lead that one difficulty explains; NaN where it has none.

        What is left is an upper bound of what knowing experts' fields can add: part of that is
        noise, too. Above 1 experts err together more than difficulty says.
        """
        lead = self.oracle - self.best_single
        return (self.expected_oracle - self.best_single) / lead if lead > 0 else np.nan

    @property
    def words(self) -> str:
        lead, expected = self.oracle - self.best_single, self.expected_oracle - self.best_single
        told = (
            f"headroom: the oracle leads the best single expert by {100 * lead:.1f} points; if "
            f"queries differed in difficulty alone, luck would give it {100 * expected:.1f}"
        )
        if not lead > 0:
            return told
        return f"{told} ({100 * self.explained:.0f} % of the lead, which no router can earn)"


def headroom_of(table: OutcomeTable) -> Headroom | None:
    """None where `headroom` has nothing to go by."""
    try:
        return headroom(table)
    except DatasetError:
        return None


def headroom(table: OutcomeTable) -> Headroom:
    """Scores above one half count as right. Raises `DatasetError` for fewer than two experts, or
    where no query was answered by all.
    """
    scores = table.scores[~np.isnan(table.scores).any(axis=1)]
    if scores.shape[1] < 2 or not len(scores):
        raise DatasetError(
            "headroom takes at least two experts and a query that all of them were measured on; "
            "ask with --ask all"
        )
    right = (scores > 0.5).astype(float)
    abilities, weights = fit_rasch(right)
    wrong_at = 1.0 - _chances(abilities)
    return Headroom(
        n_queries=len(right),
        best_single=float(right.mean(axis=0).max()),
        oracle=float(right.max(axis=1).mean()),
        expected_oracle=float(1.0 - weights @ wrong_at.prod(axis=1)),
    )


def fit_rasch(right: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n_experts,) abilities and (n_grid,) weights of the difficulties, from right or wrong.

    `right`: (n_queries, n_experts) of 0 and 1. How likely a query's answers are depends on its
    difficulty only through how many are right, so that these numbers are all that EM needs.
    """
    n_experts = right.shape[1]
    totals = np.bincount(right.sum(axis=1).astype(int), minlength=n_experts + 1)
    shares = right.mean(axis=0).clip(1e-4, 1 - 1e-4)
    abilities: FloatArray = np.log(shares / (1 - shares))
    spread = 1.5
    for _ in range(_MOST_STEPS):
        weights = _normal(spread)
        at_grid = totals @ _posterior(abilities, weights, n_experts) / totals.sum()
        moved = _improved(abilities, at_grid, shares)
        widened = float(np.sqrt(at_grid @ _GRID**2).clip(1e-3, 6.0))
        change = max(float(np.abs(moved - abilities).max()), abs(widened - spread))
        abilities, spread = moved, widened
        if change < _SETTLED:
            break
    return abilities, _normal(spread)


def _normal(spread: float) -> FloatArray:
    """(n_grid,) weights of a normal distribution around zero."""
    weights: FloatArray = np.exp(-0.5 * (_GRID / spread) ** 2)
    weights /= weights.sum()
    return weights


def _chances(abilities: FloatArray) -> FloatArray:
    """(n_grid, n_experts)"""
    chances: FloatArray = 1.0 / (1.0 + np.exp(_GRID[:, None] - abilities[None, :]))
    return chances


def _posterior(abilities: FloatArray, weights: FloatArray, n_experts: int) -> FloatArray:
    """(n_experts + 1, n_grid) of the difficulty, given how many experts were right.

    Which ones were right cancels out: it tells of abilities and not of the difficulty.
    """
    n_right = np.arange(n_experts + 1)[:, None]
    all_wrong = np.log1p(-_chances(abilities)).sum(axis=1)
    logs = -n_right * _GRID[None, :] + all_wrong[None, :] + np.log(weights + 1e-300)[None, :]
    logs -= logs.max(axis=1, keepdims=True)
    posterior: FloatArray = np.exp(logs)
    posterior /= posterior.sum(axis=1, keepdims=True)
    return posterior


def _improved(abilities: FloatArray, at_grid: FloatArray, shares: FloatArray) -> FloatArray:
    """One Newton step towards abilities under which each expert is right as often as it was."""
    chances = _chances(abilities)
    error = shares - at_grid @ chances
    slope = at_grid @ (chances * (1 - chances))
    moved: FloatArray = abilities + np.clip(error / np.maximum(slope, 1e-9), -1.0, 1.0)
    return moved.clip(-_EDGE, _EDGE)
