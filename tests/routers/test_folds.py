"""Held-out predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coe.outcomes import OutcomeTable
from coe.routers.baselines import BestSingleScorer
from coe.routers.folds import fold_numbers, held_out, held_out_scores, routed_outcome
from coe.routing import Encoder, FloatArray, Scorer
from coe.types import Query


def test_folds_are_of_equal_size_and_repeatable() -> None:
    folds = fold_numbers(23, seed=3)
    assert sorted(np.bincount(folds).tolist()) == [4, 4, 5, 5, 5]
    np.testing.assert_array_equal(folds, fold_numbers(23, seed=3))
    assert fold_numbers(1, seed=0).tolist() == [0]


def test_distinct_rows_share_folds_as_without_groups() -> None:
    groups = [f"text {i}" for i in range(23)]
    np.testing.assert_array_equal(fold_numbers(23, seed=3, groups=groups), fold_numbers(23, seed=3))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 3))
def test_rows_of_a_group_share_a_fold(groups: list[int], seed: int) -> None:
    folds = fold_numbers(len(groups), seed, groups=groups)
    assert len(set(zip(groups, folds.tolist(), strict=True))) == len(set(groups))
    np.testing.assert_array_equal(folds, fold_numbers(len(groups), seed, groups=groups))
    sizes = np.bincount(folds)
    assert len(sizes) == min(5, len(set(groups)))
    # No fold is larger than the smallest by more than the last group put into it.
    assert sizes.max() - sizes.min() <= max(Counter(groups).values())


def test_sizes_are_as_equal_as_groups_allow() -> None:
    groups = ["often"] * 6 + ["twice"] * 2 + [f"once {i}" for i in range(22)]
    folds = fold_numbers(30, seed=0, groups=groups)
    assert np.bincount(folds).tolist() == [6] * 5
    assert set(folds[:6].tolist()) != set(folds[6:8].tolist())


def test_a_single_group_is_not_held_out() -> None:
    masks: list[NDArray[np.bool_]] = []

    def predict(mask: NDArray[np.bool_]) -> FloatArray:
        masks.append(mask)
        return np.zeros((int(mask.sum()), 1))

    assert held_out(4, 0, predict, groups=["same"] * 4).shape == (4, 1)
    assert [mask.all() for mask in masks] == [True]


def test_groups_must_be_of_the_rows() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 rows"):
        fold_numbers(3, seed=0, groups=["a", "b"])


def test_held_out_scores_never_saw_their_text(table: OutcomeTable, encoder: Encoder) -> None:
    texts = [query.text for query in table.queries]
    assert len(set(texts)) < len(texts)
    told = held_out_scores(lambda rest, _: BestSingleScorer.fit(rest), table, encoder)
    folds = fold_numbers(table.n_queries, seed=0, groups=texts)
    for fold in range(5):
        expected = table.scores[folds != fold].mean(axis=0)
        np.testing.assert_allclose(
            told[folds == fold], np.tile(expected, ((folds == fold).sum(), 1))
        )


def test_repeated_texts_cannot_be_remembered(encoder: Encoder) -> None:
    """Texts that say nothing, but each occurs twice with one outcome, as feedback repeats it."""
    rng = np.random.default_rng(0)
    outcomes = np.repeat(rng.integers(0, 2, size=(40, 2)).astype(float), 2, axis=0)
    queries = tuple(Query(f"text {i // 2}", str(i)) for i in range(80))
    seen: list[set[str]] = []

    class Remembering:
        name = "remembering"
        expert_ids = ("a", "b")

        def __init__(self, known: OutcomeTable) -> None:
            rows = zip(known.queries, known.scores, strict=True)
            self._known = {query.text: row for query, row in rows}

        def score(self, asked: Sequence[Query]) -> FloatArray:
            seen.append({query.text for query in asked} & set(self._known))
            return np.array([self._known.get(q.text, np.full(2, 0.5)) for q in asked])

    def fit(table: OutcomeTable, encoder: Encoder) -> Scorer:
        return Remembering(table)

    told = held_out_scores(fit, OutcomeTable(queries, ("a", "b"), outcomes), encoder)
    assert seen == [set()] * 5
    np.testing.assert_array_equal(told, np.full((80, 2), 0.5))


def test_routed_outcome_counts_measured_choices() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    outcomes = np.array([[1.0, 0.0], [1.0, 0.25], [np.nan, 1.0]])
    assert routed_outcome(scores, outcomes) == pytest.approx(0.625)
