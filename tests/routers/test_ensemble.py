"""A mean of calibrated members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coe.errors import ConfigError
from coe.outcomes import OutcomeTable
from coe.routers.calibration import METHODS, Method, expected_calibration_error
from coe.routers.ensemble import MEMBERS, EnsembleScorer, mixture_weights
from coe.routers.remembered import KnownTexts, LastBatch
from coe.routing import Encoder, FloatArray
from coe.types import Query


class CountingEncoder:
    """Counts what it really encodes."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name, self.dim = encoder.name, encoder.dim
        self.n_texts = 0

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.n_texts += len(texts)
        return self._encoder.encode(texts)


def test_weights_go_to_the_member_that_knows() -> None:
    outcomes = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, np.nan]])
    knows, guesses = np.where(np.nan_to_num(outcomes) > 0, 0.9, 0.1), np.full((3, 2), 0.5)
    weights = mixture_weights(np.stack([guesses, knows]), outcomes)
    np.testing.assert_allclose(weights, [0.0, 1.0], atol=0.01)


def test_weights_of_two_opposite_members_are_worked_by_hand() -> None:
    """Right in 3 of 4 cells with 0.8, wrong with 0.2: w maximises 3 log(.2+.6w) + log(.8-.6w)."""
    outcomes = np.array([[1.0], [1.0], [1.0], [0.0]])
    weights = mixture_weights(np.stack([np.full((4, 1), 0.8), np.full((4, 1), 0.2)]), outcomes)
    assert weights[0] == pytest.approx(11 / 12, abs=1e-3)


def test_few_outcomes_leave_weights_nearly_equal() -> None:
    """Four cells beside 20 for each of two: the fixed point of w = (20 + 4 w s) / 44 by hand."""
    outcomes = np.ones((4, 1))
    stacked = np.stack([np.full((4, 1), 0.8), np.full((4, 1), 0.2)])
    w = float(mixture_weights(stacked, outcomes, 20.0)[0])
    share = 0.8 * w / (0.8 * w + 0.2 * (1 - w))
    assert w == pytest.approx((20 + 4 * share) / 44, abs=1e-4)
    assert 0.5 < w < 0.55
    assert mixture_weights(stacked, outcomes)[0] > 0.99


@pytest.fixture
def longer(table: OutcomeTable) -> OutcomeTable:
    """The same 30 queries four times over in other words, enough to calibrate on."""
    many = table.rows(np.tile(np.arange(table.n_queries), 4))
    texts = [f"{query.text} case {i}" for i, query in enumerate(many.queries)]
    queries = (replace(q, text=text) for q, text in zip(many.queries, texts, strict=True))
    return replace(many, queries=tuple(queries))


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_calibrated(name: str, longer: OutcomeTable, encoder: Encoder) -> None:
    scores = EnsembleScorer.fit(longer, encoder, [name]).score(
        [Query("sum plus digit", category="maths"), Query("river city", category="places")]
    )
    assert scores.min() > 0.0
    assert scores.max() < 1.0
    assert scores.argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_chances_come_true(
    method: Method, longer: OutcomeTable, encoder: Encoder
) -> None:
    scorer = EnsembleScorer.fit(longer, encoder, ["category"], method)
    error = expected_calibration_error(scorer.score(longer.queries), longer.scores)
    assert error < 0.05


def test_equal_weights_average_the_members(table: OutcomeTable, encoder: Encoder) -> None:
    asked = [Query("sum city"), Query("acid", category="chemistry")]
    both = EnsembleScorer.fit(table, encoder, ["linear", "knn"], equal_weights=True)
    parts = [EnsembleScorer.fit(table, encoder, [name]).score(asked) for name in ("linear", "knn")]
    np.testing.assert_allclose(both.score(asked), (parts[0] + parts[1]) / 2)


def test_a_batch_is_encoded_once(table: OutcomeTable, encoder: Encoder) -> None:
    artifact = EnsembleScorer.fit(table, encoder).artifact()
    counting = CountingEncoder(encoder)
    EnsembleScorer(artifact, counting).score([Query("sum"), Query("acid", category="chemistry")])
    assert counting.n_texts == 2


def test_remembered_vectors_are_the_encoders_own(encoder: Encoder) -> None:
    counting = CountingEncoder(encoder)
    known, last = KnownTexts(counting, ["sum", "acid"]), LastBatch(encoder)
    np.testing.assert_array_equal(known.encode(["acid"]), encoder.encode(["acid"]))
    assert counting.n_texts == 2
    np.testing.assert_array_equal(known.encode(["acid", "new"]), encoder.encode(["acid", "new"]))
    for texts in (["sum", "acid"], ["acid"], ["river"], []):
        np.testing.assert_array_equal(last.encode(texts), encoder.encode(texts))
    assert (known.name, last.dim) == (encoder.name, encoder.dim)


def test_tables_without_categories_leave_the_category_out(encoder: Encoder) -> None:
    texts = [f"{words} case {i}" for i in range(10) for words in ("sum plus", "river city")]
    bare = OutcomeTable(
        tuple(Query(text, str(i)) for i, text in enumerate(texts)),
        ("a", "b"),
        np.array([[1.0, 0.0], [0.0, 1.0]] * 10),
    )
    scorer = EnsembleScorer.fit(bare, encoder)
    assert scorer.members == ("ridge", "linear", "knn")
    assert scorer.score([Query("sum"), Query("city")]).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("members", [[], ["knn", "knn"], ["lineer"]])
def test_wrong_members_are_refused(
    members: list[str], table: OutcomeTable, encoder: Encoder
) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'linear'|name each one once"):
        EnsembleScorer.fit(table, encoder, members)
