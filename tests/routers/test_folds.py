"""Held-out predictions."""

from __future__ import annotations

import numpy as np
import pytest

from coe.outcomes import OutcomeTable
from coe.routers.baselines import BestSingleScorer
from coe.routers.folds import fold_numbers, held_out_scores, routed_outcome
from coe.routing import Encoder


def test_folds_are_of_equal_size_and_repeatable() -> None:
    folds = fold_numbers(23, seed=3)
    assert sorted(np.bincount(folds).tolist()) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(folds, fold_numbers(23, seed=3))
    assert fold_numbers(1, seed=0).tolist() == [0]


def test_held_out_scores_never_saw_their_row(table: OutcomeTable, encoder: Encoder) -> None:
    held_out = held_out_scores(lambda rest, _: BestSingleScorer.fit(rest), table, encoder)
    folds = fold_numbers(table.n_queries, seed=0)
    for fold in range(5):
        expected = table.scores[folds != fold].mean(axis=0)
        np.testing.assert_allclose(held_out[folds == fold], np.tile(expected, (6, 1)))


def test_routed_outcome_counts_measured_choices() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    outcomes = np.array([[1.0, 0.0], [1.0, 0.25], [np.nan, 1.0]])
    assert routed_outcome(scores, outcomes) == pytest.approx(0.625)
