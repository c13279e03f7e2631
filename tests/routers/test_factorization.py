"""Matrix factorisation: the bilinear form, its slopes, and both losses."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import ConfigError, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.routers.factorization import (
    FORMS,
    FactorizationScorer,
    Factors,
    Form,
    factorized,
    pairwise_loss,
    pointwise_loss,
)
from coe.routers.logistic import sigmoid
from coe.routing import Encoder
from coe.types import Query


def test_strength_is_worked_by_hand() -> None:
    """δ = 0.5 + (2, -1) · (W (3, 4) + b) with W = ((1, 0), (0, 1)), b = (1, 0): 0.5 + 8 - 4."""
    factors = Factors(
        np.array([[2.0, -1.0]]), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), np.array([0.5])
    )
    np.testing.assert_allclose(factors.strengths(np.array([[3.0, 4.0]])), [[4.5]])


def test_pairwise_loss_is_worked_by_hand() -> None:
    """One battle, won by the first at δ - δ' = log 3: the loss is -log(3/4), the pull 1/4."""
    logits = np.array([[np.log(3.0), 0.0, 7.0]])
    y, measured = np.array([[1.0, 0.0, 0.0]]), np.array([[True, True, False]])
    value, slope = pairwise_loss(logits, y, measured)
    assert value == pytest.approx(-np.log(0.75))
    np.testing.assert_allclose(slope, [[-0.25, 0.25, 0.0]])


@pytest.mark.parametrize("loss", [pointwise_loss, pairwise_loss])
def test_slopes_are_those_of_the_loss(loss: object) -> None:
    assert callable(loss)
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(4, 3)), rng.integers(0, 2, (4, 3)).astype(float)
    measured = rng.random((4, 3)) < 0.8
    _, slope = loss(logits, y, measured)
    for at in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[at] = 1e-6
        rise = loss(logits + step, y, measured)[0] - loss(logits - step, y, measured)[0]
        assert rise / 2e-6 == pytest.approx(slope[at], abs=1e-5)


def test_two_kinds_of_queries_are_told_apart() -> None:
    vectors = np.tile(np.eye(2), (50, 1))
    outcomes = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    for form in FORMS:
        strengths = factorized(vectors, outcomes, 10.0, form).strengths(np.eye(2))
        assert strengths.argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("form", FORMS)
def test_routes_by_words(form: Form, table: OutcomeTable, encoder: Encoder) -> None:
    scorer = FactorizationScorer.fit(table, encoder, c=5.0, form=form)
    asked = [Query("sum plus digit"), Query("city river country"), Query("acid metal atom")]
    assert scorer.score(asked).argmax(axis=1).tolist() == [0, 1, 2]


def test_win_rate_is_the_sigmoid_of_the_difference(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = FactorizationScorer.fit(table, encoder, c=5.0, form="pairwise")
    query = Query("city river")
    scores = scorer.score([query])[0]
    rate = scorer.win_rate("geo", "calc", query)
    assert rate == pytest.approx(float(sigmoid(scores[1] - scores[0])))
    assert rate > 0.5
    assert scorer.win_rate("calc", "geo", query) == pytest.approx(1 - rate)
    assert scorer.win_rate("geo", "geo", query) == pytest.approx(0.5)
    with pytest.raises(UnknownExpert):
        scorer.win_rate("geo", "gao", query)


def test_unknown_form_is_refused(table: OutcomeTable, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="pointwise, pairwise"):
        FactorizationScorer.fit(table, encoder, form="triple")  # type: ignore[arg-type]
