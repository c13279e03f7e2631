"""Jitter of labels, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.jitter import jitter_report, label_jitter, shuffled_jitter, tie_rate
from coe.routing import Encoder

ANGLES = np.radians([0.0, 1.0, 2.0, 90.0, 91.0])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def test_labels_that_follow_the_vectors_do_not_jitter() -> None:
    assert label_jitter(VECTORS, np.array([0, 0, 0, 1, 1]), 1) == 0.0


def test_jitter_is_worked_by_hand() -> None:
    """Nearest: 0→1, 1→0 or 2 (both labelled otherwise), 2→1, 3→4, 4→3; three of five disagree."""
    assert label_jitter(VECTORS, np.array([0, 1, 0, 1, 1]), 1) == pytest.approx(3 / 5)


def test_duplicates_are_neighbours_and_a_query_is_not_its_own() -> None:
    same = np.tile([[1.0, 0.0]], (4, 1))
    assert label_jitter(same, np.array([0, 1, 2, 3]), 1) == 1.0
    assert label_jitter(same, np.array([0, 0, 0, 0]), 3) == 0.0


def test_shuffled_jitter_is_the_chance_that_two_labels_differ() -> None:
    assert shuffled_jitter(np.array([0, 0, 1, 1])) == pytest.approx(2 / 3)


def test_tie_rate_counts_the_two_best_measured() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 0.8, np.nan], [0.5, np.nan, np.nan]])
    assert tie_rate(scores) == pytest.approx(1 / 2)
    assert tie_rate(scores, noise=0.25) == 1.0
    with pytest.raises(DatasetError, match="two experts"):
        tie_rate(scores[2:])


def test_categories_hold_still_where_best_experts_flip(
    table: OutcomeTable, encoder: Encoder
) -> None:
    report = jitter_report(table, encoder.encode([q.text for q in table.queries]), k=5)
    assert report.category < report.best_expert
    assert report.category < report.category_shuffled
    assert report.tie_rate == pytest.approx(12 / 30)
