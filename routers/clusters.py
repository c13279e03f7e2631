"""k-means clusters of queries, and how each expert did in the clusters nearest to the query.

The Avengers (arXiv 2505.19797) and Avengers-Pro (arXiv 2508.12631): k-means over unit
embeddings, an expert's mean per cluster, and a softmax of similarity over the p nearest
clusters. Avengers-Pro trades quality for cost by scaling both within a cluster. Shrinking a
cluster's mean towards the expert's overall one is ours; it matters where clusters are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import expected_calibration_error
from coe.routers.folds import fold_numbers, routed_outcome
from coe.routing import Encoder, FloatArray
from coe.types import Query

IntArray = NDArray[np.integer]

N_CLUSTERS_GRID = (8, 16, 32, 64)
SMOOTHING_GRID = (0.0, 10.0, 50.0, 200.0)
NEAREST_GRID = (1, 3)
SHARPNESS = 9.0
"""Factor of the similarity in the softmax over clusters, as in the authors' code."""
_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How clusters are made and read."""

    n_clusters: int = 32
    smoothing: float = 50.0
    """Trials with the expert's overall rate that are added to each cluster."""
    nearest: int = 3
    """How many clusters are mixed."""


class ClustersScorer:
    """Each expert's rate in the clusters that the query is nearest to."""

    name = "clusters"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self._nearest = int(artifact.manifest.settings["nearest"])
        self._centers = artifact.arrays["centers"].astype(np.float64)
        self._values = artifact.arrays["values"]

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        settings: ClusterSettings | None = None,
        quality_weight: float = 1.0,
        seed: int = 0,
    ) -> ClustersScorer:
        """`settings` None chooses them by routing held-out folds.

        A `quality_weight` below 1 scores as Avengers-Pro does: that share of the quality and the
        rest of the cheapness, both scaled to [0, 1] within the cluster; it needs known costs.
        """
        if table.n_queries == 0:
            raise DatasetError("clusters need at least one query to be fitted on")
        if not 0.0 <= quality_weight <= 1.0:
            raise ConfigError(f"quality_weight is {quality_weight:g}; give a share from 0 to 1")
        vectors = encoder.encode([query.text for query in table.queries]).astype(np.float32)
        tuned: dict[str, float] = {}
        if settings is None:
            chosen, tuned = _tuned(vectors, table.scores, seed)
        else:
            chosen = settings
        centers, labels = k_means(vectors, chosen.n_clusters, seed)
        values = cluster_rates(table.scores, labels, len(centers), chosen.smoothing)
        if quality_weight < 1.0:
            values = _with_costs(values, table, labels, quality_weight)
        told = {
            **asdict(replace(chosen, n_clusters=len(centers))),
            **tuned,
            "settings_given": settings is not None,
            "quality_weight": quality_weight,
            "seed": seed,
        }
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, told
        )
        arrays = {"centers": centers.astype(np.float32), "values": values}
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        return mixed_values(vectors, self._centers, self._values, self._nearest)

    def explain(self, query: Query) -> tuple[str, ...]:
        similarities = self._encoder.encode([query.text]).astype(np.float64) @ self._centers.T
        best = int(np.argmax(self.score([query])[0]))
        nearest = int(np.argmax(similarities[0]))
        return (
            f"nearest to cluster {nearest} of {len(self._centers)} (cosine "
            f"{similarities[0, nearest]:.2f}); {self.expert_ids[best]} has the best score there "
            f"and in the next {self._nearest - 1}",
        )


def k_means(vectors: FloatArray, n_clusters: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Unit centers and the cluster of each vector; no more clusters than distinct vectors."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n_clusters = min(n_clusters, len(np.unique(vectors, axis=0)))
    # One thread: with several, sums are added in whatever order the threads finish.
    with threadpool_limits(1):
        fitted = KMeans(n_clusters, n_init=1, max_iter=_ROUNDS, random_state=seed).fit(vectors)
    centers = fitted.cluster_centers_.astype(np.float64)
    lengths = np.linalg.norm(centers, axis=1, keepdims=True)
    unit: FloatArray = np.divide(centers, lengths, out=np.zeros_like(centers), where=lengths > 0)
    return unit, fitted.labels_


def cluster_rates(
    outcomes: FloatArray, labels: IntArray, n_clusters: int, smoothing: float
) -> FloatArray:
    """(n_clusters, n_experts) rates where measured, shrunk towards the expert's overall one."""
    measured = ~np.isnan(outcomes)
    wins = np.where(measured, outcomes, 0.0)
    overall = wins.sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    member = (labels == np.arange(n_clusters)[:, None]).astype(np.float64)
    trials = member @ measured + smoothing
    sums = member @ wins + smoothing * overall
    rates: FloatArray = np.where(trials > 0, sums / np.where(trials > 0, trials, 1.0), overall)
    return rates


def mixed_values(
    vectors: FloatArray, centers: FloatArray, values: FloatArray, nearest: int
) -> FloatArray:
    """(n_queries, n_experts): values of the nearest clusters by softmax of the cosine."""
    similarities = vectors.astype(np.float64) @ centers.T
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :nearest]
    close = np.take_along_axis(similarities, order, axis=1)
    weights = np.exp(SHARPNESS * (close - close[:, :1]))
    weights /= weights.sum(axis=1, keepdims=True)
    mixed: FloatArray = np.einsum("qn,qne->qe", weights, values[order])
    return mixed


def _with_costs(
    rates: FloatArray, table: OutcomeTable, labels: IntArray, quality_weight: float
) -> FloatArray:
    """Avengers-Pro's score: weighted quality and cheapness, each min-max scaled by cluster."""
    spent = np.full(table.scores.shape, np.nan) if table.cost_usd is None else table.cost_usd
    unknown = np.isnan(spent).all(axis=0)
    if unknown.any():
        names = ", ".join(table.expert_ids[e] for e in np.flatnonzero(unknown))
        raise DatasetError(
            f"no cost is recorded of {names}; leave them out or use quality_weight=1"
        )
    costs = cluster_rates(spent, labels, len(rates), smoothing=1.0)
    return quality_weight * _scaled(rates) + (1 - quality_weight) * (1 - _scaled(costs))


def _scaled(rows: FloatArray) -> FloatArray:
    low, span = rows.min(axis=1, keepdims=True), np.ptp(rows, axis=1, keepdims=True)
    scaled: FloatArray = np.divide(rows - low, span, out=np.zeros_like(rows), where=span > 0)
    return scaled


def _tuned(
    vectors: FloatArray, outcomes: FloatArray, seed: int
) -> tuple[ClusterSettings, dict[str, float]]:
    """The settings that route held-out rows best, the first of equals, and how they did."""
    folds = fold_numbers(len(vectors), seed)
    grid = [
        ClusterSettings(n, smoothing, nearest)
        for n, smoothing, nearest in product(N_CLUSTERS_GRID, SMOOTHING_GRID, NEAREST_GRID)
    ]
    held_out = np.zeros((len(grid), *outcomes.shape))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rest = ~held if not held.all() else held
        made = {n: k_means(vectors[rest], n, seed) for n in N_CLUSTERS_GRID}
        for i, settings in enumerate(grid):
            centers, labels = made[settings.n_clusters]
            rates = cluster_rates(outcomes[rest], labels, len(centers), settings.smoothing)
            held_out[i, held] = mixed_values(vectors[held], centers, rates, settings.nearest)
    best = int(np.argmax([routed_outcome(scores, outcomes) for scores in held_out]))
    return grid[best], {
        "held_out_outcome": routed_outcome(held_out[best], outcomes),
        "held_out_ece": expected_calibration_error(held_out[best], outcomes),
    }
