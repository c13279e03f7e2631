"""What is particular to each scorer, with values worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.errors import ConfigError, DatasetError, PoolMismatch, RoutingError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.baselines import BestSingleScorer, OracleScorer, RandomScorer
from coe.routers.category import CategoryScorer
from coe.routers.neighbors import NeighborsScorer
from coe.routing import Encoder
from coe.types import Query


def test_best_single_scores_are_the_means(table: OutcomeTable) -> None:
    scores = BestSingleScorer.fit(table).score([Query("a"), Query("b")])
    np.testing.assert_allclose(scores, np.tile(table.scores.mean(axis=0), (2, 1)))


def test_best_single_needs_a_measured_expert(table: OutcomeTable) -> None:
    empty = OutcomeTable(table.queries, table.expert_ids, np.full(table.scores.shape, np.nan))
    with pytest.raises(DatasetError, match="ever measured"):
        BestSingleScorer.fit(empty)


def test_oracle_returns_the_outcomes(table: OutcomeTable) -> None:
    oracle = OracleScorer(table)
    np.testing.assert_array_equal(oracle.score(table.queries[4:7]), table.scores[4:7])
    with pytest.raises(RoutingError, match="no recorded outcome"):
        oracle.score([Query("never seen", "nope")])


def test_random_is_repeatable_and_near_uniform() -> None:
    queries = [Query(str(i)) for i in range(3000)]
    scores = RandomScorer(("a", "b", "c"), seed=1).score(queries)
    np.testing.assert_array_equal(scores, RandomScorer(("a", "b", "c"), seed=1).score(queries))
    assert (scores != RandomScorer(("a", "b", "c"), seed=2).score(queries)).any()
    shares = np.bincount(scores.argmax(axis=1)) / 3000
    assert np.abs(shares - 1 / 3).max() < 0.04


def test_knn_with_k_1_returns_the_nearest_outcome(encoder: Encoder) -> None:
    table = OutcomeTable(
        (Query("sum plus", "1"), Query("river city", "2")),
        ("a", "b"),
        np.array([[1.0, 0.25], [0.0, 0.75]]),
    )
    scores = NeighborsScorer.fit(table, encoder, k=1).score([Query("sum digit"), Query("city")])
    np.testing.assert_allclose(scores, [[1.0, 0.25], [0.0, 0.75]])


def test_knn_averages_measured_neighbours_only(encoder: Encoder) -> None:
    table = OutcomeTable(
        tuple(Query("sum", str(i)) for i in range(3)),
        ("a", "b"),
        np.array([[1.0, np.nan], [0.0, np.nan], [1.0, 0.5]]),
    )
    scores = NeighborsScorer.fit(table, encoder, k=3).score([Query("sum")])
    np.testing.assert_allclose(scores, [[2 / 3, 0.5]])


def test_knn_scores_a_batch_of_any_size_alike(table: OutcomeTable, encoder: Encoder) -> None:
    measured = table.scores.copy()
    measured[::3, 0] = np.nan
    sparse = OutcomeTable(table.queries, table.expert_ids, measured)
    scorer = NeighborsScorer.fit(sparse, encoder, k=5)
    asked = list(table.queries) * (200 // len(table.queries) + 1)
    alone = np.concatenate([scorer.score([query]) for query in asked])
    np.testing.assert_array_equal(scorer.score(asked), alone)


def test_knn_chooses_k_by_cross_validation(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = NeighborsScorer.fit(table, encoder)
    assert scorer.k in (5, 10, 20)
    assert scorer.artifact().manifest.settings["k_given"] is False


def test_knn_falls_back_to_the_overall_record_without_a_known_word(
    table: OutcomeTable, encoder: Encoder
) -> None:
    scorer = NeighborsScorer.fit(table, encoder, k=5)
    for text in ("", "\U0001f642", "nothing it knows"):
        np.testing.assert_allclose(scorer.score([Query(text)])[0], table.means(), atol=1e-6)
        assert "no known word" in scorer.explain(Query(text))[0]


def test_category_rates_are_the_means_by_category(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = CategoryScorer.fit(table, encoder)
    for category in table.categories:
        rows = [i for i, q in enumerate(table.queries) if q.category == category]
        scores = scorer.score([Query("anything", category=category)])
        np.testing.assert_allclose(scores[0], table.scores[rows].mean(axis=0))


def test_category_is_guessed_where_it_is_not_given(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = CategoryScorer.fit(table, encoder)
    shares = scorer.category_shares([Query("acid metal atom"), Query("x", category="maths")])
    assert scorer.categories[int(shares[0].argmax())] == "chemistry"
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert shares[1].max() == 1.0


def test_category_prior_shrinks_towards_the_overall_rate(
    table: OutcomeTable, encoder: Encoder
) -> None:
    asked = [Query("x", category="places")]
    plain = CategoryScorer.fit(table, encoder).score(asked)[0]
    heavy = CategoryScorer.fit(table, encoder, prior_trials=1e9).score(asked)[0]
    np.testing.assert_allclose(heavy, table.scores.mean(axis=0), atol=1e-6)
    assert plain[1] == 1.0


def test_category_needs_categories(encoder: Encoder) -> None:
    bare = OutcomeTable((Query("sum", "1"),), ("a",), np.array([[1.0]]))
    with pytest.raises(DatasetError, match="category is known"):
        CategoryScorer.fit(bare, encoder)


def test_fitted_vectors_belong_to_one_encoder(table: OutcomeTable, encoder: Encoder) -> None:
    artifact = NeighborsScorer.fit(table, encoder).artifact()
    with pytest.raises(PoolMismatch, match="encoder"):
        artifact.check(table.expert_ids, "another")


def test_artifact_never_replaces_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    artifact = Artifact(Manifest("knn", ("a",), "d", 1), {"x": np.zeros(1)})
    with pytest.raises(ConfigError, match="no router artifact"):
        artifact.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_artifact_replaces_an_older_one_whole(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        Artifact(Manifest("knn", ("a",), "d", 1), {"x": np.array([value])}).save(tmp_path / "a")
    assert Artifact.load(tmp_path / "a").arrays["x"][0] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_missing_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coe fit"):
        Artifact.load(tmp_path)


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-1, 1))
def test_routing_ignores_a_common_shift(seed: int, shift: float) -> None:
    from coe.experts import Expert, ExpertPool, ScriptedSpec
    from coe.routers.policies import TopK

    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in "abcd"))
    scores = np.random.default_rng(seed).integers(0, 5, 4) / 4.0
    assert TopK(2).choose(scores, pool) == TopK(2).choose(scores + round(shift, 1) * 4, pool)
