"""Held-out predictions: what a method says of queries it was not fitted on.

Calibration, ensemble weights and every tuned setting are chosen on these, never on predictions
for the rows that were fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coe.outcomes import OutcomeTable
from coe.routing import Encoder, FloatArray, Scorer

N_FOLDS = 5


class FitsScorer(Protocol):
    """A fit function with its settings bound."""

    def __call__(self, table: OutcomeTable, encoder: Encoder) -> Scorer: ...


def fold_numbers(n: int, seed: int, n_folds: int = N_FOLDS) -> NDArray[np.intp]:
    """(n,) the fold of each row, of equal sizes; all 0 where there are too few rows to split."""
    n_folds = max(1, min(n_folds, n))
    return np.random.default_rng(seed).permutation(n) % n_folds


def held_out(
    n: int, seed: int, predict: Callable[[NDArray[np.bool_]], FloatArray], n_folds: int = N_FOLDS
) -> FloatArray:
    """(n, …) rows predicted while held out; `predict` gets their mask and returns them.

    With a single row there is nothing to hold out and `predict` sees an all-true mask.
    """
    folds = fold_numbers(n, seed, n_folds)
    parts = [(folds == fold) for fold in range(int(folds.max()) + 1)]
    first = predict(parts[0])
    whole = np.empty((n, *first.shape[1:]))
    whole[parts[0]] = first
    for mask in parts[1:]:
        whole[mask] = predict(mask)
    return whole


def held_out_scores(
    fit: FitsScorer, table: OutcomeTable, encoder: Encoder, seed: int = 0
) -> FloatArray:
    """(n_queries, n_experts) scores of scorers fitted on the other folds."""

    def predict(mask: NDArray[np.bool_]) -> FloatArray:
        rest = table if mask.all() else table.rows(~mask)
        return fit(rest, encoder).score(table.rows(mask).queries)

    return held_out(table.n_queries, seed, predict)


def routed_outcome(scores: FloatArray, outcomes: FloatArray) -> float:
    """Mean outcome of routing each query to its best score, over those measured."""
    chosen = outcomes[np.arange(len(outcomes)), scores.argmax(axis=1)]
    measured = chosen[~np.isnan(chosen)]
    return float(measured.mean()) if len(measured) else 0.0
