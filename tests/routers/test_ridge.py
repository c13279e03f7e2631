"""Ridge regression: by hand, against scikit-learn, and where categories want other experts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.errors import ConfigError, DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.category_slopes import (
    CATEGORY_SPREAD,
    EMBEDDING_SPREAD,
    SLOPES_SPREAD,
    SlopeFeatures,
    main_directions,
)
from coe.routers.ridge import PENALTY_GRID, RidgeScorer, difference_error, kept_inside, ridge_fits
from coe.routing import Encoder
from coe.types import Query


def test_one_feature_is_solved_by_hand() -> None:
    """With x = -1, 1 and y = 0, 1 the slope is Σxy / (Σx² + penalty) = 1 / (2 + 2)."""
    [(weights, intercepts)] = ridge_fits(np.array([[-1.0], [1.0]]), np.array([[0.0], [1.0]]), [2.0])
    np.testing.assert_allclose(weights, [[0.25]])
    np.testing.assert_allclose(intercepts, [0.5])


def test_fits_agree_with_scikit_learn_on_what_was_measured() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)), rng.random((200, 3))
    y[::3, 1] = np.nan
    for (weights, intercepts), penalty in zip(
        ridge_fits(x, y, [0.5, 20.0]), [0.5, 20.0], strict=True
    ):
        for e in range(3):
            known = ~np.isnan(y[:, e])
            theirs = Ridge(alpha=penalty).fit(x[known], y[known, e])
            np.testing.assert_allclose(weights[:, e], theirs.coef_, atol=1e-9)
            # Ours adds half a success and half a failure to the mean.
            assert intercepts[e] == pytest.approx(theirs.intercept_, abs=0.005)


def test_expert_never_measured_is_below_every_prediction() -> None:
    """Even where the line of another falls below 0."""
    x = np.linspace(0.0, 1.0, 40)[:, None]
    y = np.column_stack([x[:, 0] > 0.9, np.full(40, np.nan)])
    [(weights, intercepts)] = ridge_fits(x, y, [0.1])
    predicted = x @ weights + intercepts
    assert predicted[:, 0].min() < -0.1
    assert (kept_inside(predicted)[:, 0] > kept_inside(predicted)[:, 1]).all()


@given(st.lists(st.floats(-3.0, 4.0), min_size=2, max_size=20))
def test_kept_inside_keeps_the_order(values: list[float]) -> None:
    ordered = np.sort(values)
    kept = kept_inside(ordered)
    assert (np.diff(kept) >= 0.0).all()
    assert kept.min() >= 0.0
    assert kept.max() <= 1.0


def test_kept_inside_is_worked_by_hand() -> None:
    """0.02 / e at 0, as much below 1 at 1, and nothing changes between 0.02 and 0.98."""
    given_ = np.array([0.0, 0.02, 0.5, 0.98, 1.0])
    want = [0.02 / np.e, 0.02, 0.5, 0.98, 1.0 - 0.02 / np.e]
    np.testing.assert_allclose(kept_inside(given_), want)
    # Beyond the ends there are no ties.
    assert kept_inside(np.array([-0.1])) < kept_inside(np.array([-0.05]))
    assert kept_inside(np.array([1.05])) < kept_inside(np.array([1.1]))


def test_difference_error_does_not_see_difficulty() -> None:
    """Both are missed by 0.3 on the first query, which no route can gain from."""
    outcomes = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert difference_error(outcomes - [[0.3], [0.0]], outcomes) == pytest.approx(0.0)
    # A lead of 1 taken for 0: each is missed by half, on one query of two.
    assert difference_error(np.array([[0.5, 0.5], [1.0, 1.0]]), outcomes) == pytest.approx(0.125)


def test_difference_error_needs_two_measured_experts() -> None:
    """Only the second query compares experts; without it, errors count as they are."""
    outcomes = np.array([[1.0, np.nan], [1.0, 0.0]])
    predicted = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert difference_error(predicted, outcomes) == pytest.approx(0.0)
    assert difference_error(predicted[:1], outcomes[:1]) == pytest.approx(1.0)


def test_main_directions_are_those_of_most_spread() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 3)) * [0.1, 5.0, 1.0] + 7.0
    directions = main_directions(vectors)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    assert np.abs(directions).argmax(axis=0).tolist() == [1, 2, 0]
    assert main_directions(np.ones((5, 3))).shape == (3, 0)


def test_parts_of_the_features_have_the_spread_they_should(
    table: OutcomeTable, encoder: Encoder
) -> None:
    vectors = encoder.encode([query.text for query in table.queries])
    rows = SlopeFeatures.fit(table.queries, vectors).rows(table.queries, vectors)
    squares = (rows**2).mean(axis=0)
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=1e-9)
    lengths = [squares[:9].sum(), squares[9:12].sum(), squares[12:].sum()]
    np.testing.assert_allclose(lengths, [EMBEDDING_SPREAD, CATEGORY_SPREAD, SLOPES_SPREAD])


@pytest.fixture
def crossed() -> OutcomeTable:
    """In `odd` the word atom asks for expert b and acid for a; in `even` the other way round."""
    queries, rows = [], []
    for i in range(160):
        category, word = ("odd", "even")[i % 2], ("atom", "acid")[i // 2 % 2]
        queries.append(Query(word, str(i), category))
        for_b = (category == "odd") == (word == "atom")
        rows.append([float(not for_b), float(for_b)])
    return OutcomeTable(tuple(queries), ("a", "b"), np.array(rows))


def test_a_category_has_slopes_of_its_own(crossed: OutcomeTable, encoder: Encoder) -> None:
    """No sum of a word's and a category's part can tell these apart."""
    scorer = RidgeScorer.fit(crossed, encoder, penalty=1.0)
    scores = scorer.score(crossed.queries[:4])
    assert scores.argmax(axis=1).tolist() == [1, 0, 0, 1]
    assert scores.max(axis=1).min() > 0.9


def test_without_categories_the_words_remain(encoder: Encoder) -> None:
    bare = OutcomeTable(
        tuple(Query(text, str(i)) for i, text in enumerate(["sum plus", "river city"] * 20)),
        ("a", "b"),
        np.array([[1.0, 0.0], [0.0, 1.0]] * 20),
    )
    scorer = RidgeScorer.fit(bare, encoder)
    assert scorer.score([Query("sum"), Query("city")]).argmax(axis=1).tolist() == [0, 1]
    assert scorer.artifact().manifest.settings["categories"] == []


def test_penalty_is_chosen_by_held_out_differences(table: OutcomeTable, encoder: Encoder) -> None:
    settings = RidgeScorer.fit(table, encoder).artifact().manifest.settings
    assert settings["penalty"] in PENALTY_GRID
    assert not settings["penalty_given"]
    assert settings["held_out_outcome"] > table.means().max()
    # What the words do not tell is best shrunk away.
    longer = table.rows(np.tile(np.arange(table.n_queries), 10))
    noise = np.random.default_rng(0).integers(0, 2, longer.scores.shape).astype(float)
    noisy = OutcomeTable(longer.queries, longer.expert_ids, noise)
    assert RidgeScorer.fit(noisy, encoder).penalty > RidgeScorer.fit(longer, encoder).penalty


def test_wrong_penalty_and_empty_tables_are_refused(table: OutcomeTable, encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        RidgeScorer.fit(table, encoder, penalty=0.0)
    with pytest.raises(DatasetError, match="at least one query"):
        RidgeScorer.fit(table.rows(np.array([], dtype=int)), encoder)
