"""Clusters: rates, mixtures and costs worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.clusters import (
    SHARPNESS,
    ClusterSettings,
    ClustersScorer,
    cluster_rates,
    k_means,
    mixed_values,
)
from coe.routing import Encoder
from coe.types import Query


def test_rates_shrink_towards_the_overall_rate() -> None:
    """Cluster 0 won 2 of 2, overall 2 of 4: with 2 more trials (2 + 2 · 0.5) / 4."""
    outcomes = np.array([[1.0], [1.0], [0.0], [0.0], [np.nan]])
    labels = np.array([0, 0, 1, 1, 2])
    np.testing.assert_allclose(cluster_rates(outcomes, labels, 3, 2.0)[:, 0], [0.75, 0.25, 0.5])
    np.testing.assert_allclose(cluster_rates(outcomes, labels, 3, 0.0)[:, 0], [1.0, 0.0, 0.5])


def test_nearest_clusters_are_mixed_by_softmax() -> None:
    centers = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    values = np.array([[1.0], [0.0], [0.5]])
    query = np.array([[1.0, 0.0]])
    weight = 1.0 / (1.0 + np.exp(SHARPNESS * (0.6 - 1.0)))
    np.testing.assert_allclose(mixed_values(query, centers, values, 2), [[weight]])
    np.testing.assert_allclose(mixed_values(query, centers, values, 1), [[1.0]])


def test_k_means_finds_separate_groups_and_never_more_than_there_are() -> None:
    vectors = np.repeat(np.eye(3), 4, axis=0)
    centers, labels = k_means(vectors, 8, seed=0)
    assert len(centers) == 3
    np.testing.assert_allclose(centers[labels], vectors)


def test_settings_are_chosen_by_routing_held_out_queries(
    table: OutcomeTable, encoder: Encoder
) -> None:
    scorer = ClustersScorer.fit(table, encoder)
    settings = scorer.artifact().manifest.settings
    # Every query shares words with its own category only, which clusters find.
    assert settings["held_out_outcome"] > table.means().max() + 0.2
    asked = [Query("sum digit"), Query("river country"), Query("acid atom")]
    assert scorer.score(asked).argmax(axis=1).tolist() == [0, 1, 2]


def test_quality_weight_trades_quality_for_cost(table: OutcomeTable, encoder: Encoder) -> None:
    costs = np.tile([3.0, 2.0, 1.0], (table.n_queries, 1))
    priced = replace(table, cost_usd=costs)
    chosen = ClusterSettings(n_clusters=3, smoothing=0.0, nearest=1)
    asked = [Query("sum plus digit")]

    def best(quality_weight: float) -> str:
        scorer = ClustersScorer.fit(priced, encoder, chosen, quality_weight)
        return scorer.expert_ids[int(scorer.score(asked)[0].argmax())]

    assert (best(1.0), best(0.9), best(0.0)) == ("calc", "calc", "chem")
    with pytest.raises(DatasetError, match="no cost is recorded of calc, geo, chem"):
        ClustersScorer.fit(table, encoder, chosen, 0.5)
    with pytest.raises(ConfigError, match="0 to 1"):
        ClustersScorer.fit(priced, encoder, chosen, 1.5)
