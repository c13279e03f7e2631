"""Held-out predictions: what a method says of queries it was not fitted on.

Calibration, ensemble weights and every tuned setting are chosen on these, never on predictions
for the rows that were fitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coe.outcomes import OutcomeTable
from coe.routing import Encoder, FloatArray, Scorer

N_FOLDS = 5


class FitsScorer(Protocol):
    """A fit function with its settings bound."""

    def __call__(self, table: OutcomeTable, encoder: Encoder) -> Scorer: ...


def fold_numbers(
    n: int, seed: int, n_folds: int = N_FOLDS, groups: Sequence[Hashable] | None = None
) -> NDArray[np.intp]:
    """(n,) the fold of each row, of equal sizes; all 0 where there are too few rows to split.

    Rows of one group share a fold, and sizes are as equal as that allows. Where every row is a
    group of its own the folds are those without groups.
    """
    if groups is None:
        return np.random.default_rng(seed).permutation(n) % max(1, min(n_folds, n))
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} rows")
    sizes = Counter(groups)
    drawn = np.random.default_rng(seed).permutation(len(sizes)).tolist()
    rank = dict(zip(sizes, drawn, strict=True))
    filled = [0] * max(1, min(n_folds, len(sizes)))
    fold_of: dict[Hashable, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], rank[group])):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return np.array([fold_of[group] for group in groups], dtype=np.intp)


def held_out(
    n: int,
    seed: int,
    predict: Callable[[NDArray[np.bool_]], FloatArray],
    n_folds: int = N_FOLDS,
    groups: Sequence[Hashable] | None = None,
) -> FloatArray:
    """(n, …) rows predicted while held out; `predict` gets their mask and returns them.

    Rows of one group are held out together, such as those of one text: a row that is predicted
    by its own repetition is not held out. With a single row, or a single group, there is nothing
    to hold out and `predict` sees an all-true mask.
    """
    folds = fold_numbers(n, seed, n_folds, groups)
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
    """(n_queries, n_experts) scores of scorers fitted on the other folds, split by text."""

    def predict(mask: NDArray[np.bool_]) -> FloatArray:
        rest = table if mask.all() else table.rows(~mask)
        return fit(rest, encoder).score(table.rows(mask).queries)

    return held_out(table.n_queries, seed, predict, groups=[q.text for q in table.queries])


def routed_outcome(scores: FloatArray, outcomes: FloatArray) -> float:
    """Mean outcome of routing each query to its best score, over those measured."""
    chosen = outcomes[np.arange(len(outcomes)), scores.argmax(axis=1)]
    measured = chosen[~np.isnan(chosen)]
    return float(measured.mean()) if len(measured) else 0.0
