"""Logistic regressions: against scikit-learn, by hand, and where no category is named."""

from __future__ import annotations

import numpy as np
import pytest

from coe.outcomes import OutcomeTable
from coe.routers.linear import C_GRID, CategoryFeatures, LinearScorer
from coe.routers.logistic import LogisticFits, log_loss, logit, sigmoid
from coe.routing import Encoder
from coe.types import Query


def test_fits_agree_with_scikit_learn() -> None:
    """Up to the intercept's penalty, which vanishes beside 400 rows."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    truth = x @ rng.normal(size=(5, 2)) + [0.5, -1.0]
    y = (rng.random((400, 2)) < sigmoid(truth)).astype(float)
    weights, intercepts = LogisticFits(x, y).fit(1.0)
    for e in range(2):
        theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, y[:, e])
        np.testing.assert_allclose(weights[:, e], theirs.coef_[0], atol=0.01)
        np.testing.assert_allclose(intercepts[e], theirs.intercept_[0], atol=0.02)


def test_missing_rows_change_nothing() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 3)), rng.integers(0, 2, (60, 1)).astype(float)
    holed = np.vstack([y, np.full((60, 1), np.nan)])
    # The same rows again, unmeasured: the same features' mean, so the same problem.
    twice, _ = LogisticFits(np.vstack([x, x]), holed).fit(0.5)
    once, _ = LogisticFits(x, y).fit(0.5)
    np.testing.assert_allclose(twice, once, atol=1e-3)


def test_fractions_are_shares_of_success() -> None:
    """Without any signal the probability is the mean, here 0.3."""
    weights, intercepts = LogisticFits(np.zeros((1000, 2)), np.full((1000, 1), 0.3)).fit(1.0)
    assert np.abs(weights).max() < 1e-9
    assert sigmoid(intercepts)[0] == pytest.approx(0.3, abs=1e-3)


def test_log_loss_and_logit_are_worked_by_hand() -> None:
    assert log_loss(np.array([0.5, 0.9]), np.array([1.0, np.nan])) == pytest.approx(np.log(2))
    assert logit(np.array([0.5]))[0] == 0.0
    np.testing.assert_allclose(sigmoid(np.array([-800.0, 0.0, 800.0])), [0.0, 0.5, 1.0])


def test_category_that_is_not_named_is_expected(table: OutcomeTable, encoder: Encoder) -> None:
    vectors = encoder.encode([query.text for query in table.queries])
    features = CategoryFeatures.fit(table.queries, vectors)
    asked = [Query("acid atom"), Query("acid atom", category="places"), Query("x", category="law")]
    rows = features.rows(asked, encoder.encode([query.text for query in asked]))
    shares = rows[:, -3:]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert features.categories == ("chemistry", "maths", "places")
    assert shares[0].argmax() == 0
    assert 0.5 < shares[0, 0] < 1.0
    assert shares[1].tolist() == [0.0, 0.0, 1.0]
    # A category that was never seen is guessed too.
    assert 0.0 < shares[2].max() < 1.0


def test_linear_routes_by_words_and_by_category(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = LinearScorer.fit(table, encoder, c=10.0)
    asked = [Query("sum plus"), Query("city river"), Query("?", category="chemistry")]
    assert scorer.score(asked).argmax(axis=1).tolist() == [0, 1, 2]


def test_strength_is_chosen_by_held_out_folds(table: OutcomeTable, encoder: Encoder) -> None:
    settings = LinearScorer.fit(table, encoder).artifact().manifest.settings
    assert settings["c"] in C_GRID
    assert not settings["c_given"]
    assert 0.0 <= settings["held_out_ece"] <= 1.0
    assert settings["held_out_outcome"] > table.means().max()
