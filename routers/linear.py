"""Regularised logistic regression for each expert on the query's embedding and category.

The plain baseline that routing benchmarks find hard to beat (RouterBench, arXiv 2403.12031;
"When Simple kNN Beats Complex Learned Routers", arXiv 2505.12601). Where a query names no
category, a second regression on the embedding guesses it, and the expected one-hot vector
stands in for the category. The strength of the penalty is chosen by cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import expected_calibration_error
from coe.routers.category_votes import category_shares
from coe.routers.folds import fold_numbers, routed_outcome
from coe.routers.logistic import LogisticFits, held_out_by_strength, log_loss, sigmoid
from coe.routing import Encoder, FloatArray
from coe.types import Query

C_GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse strength of the penalty, for unit vectors and one-hot categories."""
_CATEGORY_C = 10.0
_LEAST_CONFIDENT = 1e-12


class CategoryFeatures:
    """Embedding and category of queries as one row of numbers each."""

    def __init__(self, categories: Sequence[str], guess: FloatArray) -> None:
        """`guess`: (dim + 1, n_categories) weights and, last, intercepts of the categories."""
        self.categories = tuple(categories)
        self._guess = guess

    @classmethod
    def fit(cls, queries: Sequence[Query], vectors: FloatArray) -> CategoryFeatures:
        """Learns to guess from the queries that name a category; none may."""
        categories = sorted({q.category for q in queries if q.category is not None})
        named = np.array([q.category is not None for q in queries], dtype=bool)
        labels = [q.category for q in queries if q.category is not None]
        if len(categories) < 2:
            return cls(categories, np.zeros((vectors.shape[1] + 1, len(categories))))
        one_hot = np.array([[float(label == c) for c in categories] for label in labels])
        weights, intercepts = LogisticFits(vectors[named], one_hot).fit(_CATEGORY_C)
        return cls(categories, np.vstack([weights, intercepts]))

    def rows(self, queries: Sequence[Query], vectors: FloatArray) -> FloatArray:
        """(n_queries, dim + n_categories) float64."""
        wide = vectors.astype(np.float64)
        if not self.categories:
            return wide

        def guess(rows: NDArray[np.integer]) -> FloatArray:
            chances = sigmoid(wide[rows] @ self._guess[:-1] + self._guess[-1])
            chances = np.maximum(chances, _LEAST_CONFIDENT)
            shares: FloatArray = chances / chances.sum(axis=1, keepdims=True)
            return shares

        return np.hstack([wide, category_shares(queries, self.categories, guess)])

    @property
    def weights(self) -> FloatArray:
        return self._guess


class LinearScorer:
    """Each expert's probability of success, by logistic regression."""

    name = "linear"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        settings, arrays = artifact.manifest.settings, artifact.arrays
        self.c = float(settings["c"])
        self._features = CategoryFeatures(settings["categories"], arrays["guess"])
        self._weights = arrays["weights"].astype(np.float64)
        self._intercepts = arrays["intercepts"]

    @classmethod
    def fit(
        cls, table: OutcomeTable, encoder: Encoder, c: float | None = None, seed: int = 0
    ) -> LinearScorer:
        """`c` None takes the best of `C_GRID` by routing held-out folds."""
        if table.n_queries == 0:
            raise DatasetError("linear regression needs at least one query to be fitted on")
        vectors = encoder.encode([query.text for query in table.queries])
        features = CategoryFeatures.fit(table.queries, vectors)
        rows = features.rows(table.queries, vectors)
        tuned = _tuned(rows, table.scores, seed) if c is None else {"c": c}
        weights, intercepts = LogisticFits(rows, table.scores).fit(tuned["c"])
        settings = {
            **tuned,
            "c_given": c is not None,
            "categories": list(features.categories),
            "seed": seed,
        }
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        arrays = {
            "weights": weights.astype(np.float32),
            "intercepts": intercepts,
            "guess": features.weights.astype(np.float32),
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        rows = self._features.rows(queries, vectors)
        return sigmoid(rows @ self._weights + self._intercepts)

    def explain(self, query: Query) -> tuple[str, ...]:
        chances = self.score([query])[0]
        best = int(np.argmax(chances))
        given = query.category in self._features.categories
        about = f"category {query.category!r}" if given else "a guessed category"
        return (
            f"from the words and {about}, {self.expert_ids[best]} is expected to succeed with "
            f"probability {chances[best]:.0%}",
        )


def _tuned(rows: FloatArray, outcomes: FloatArray, seed: int) -> dict[str, float]:
    """The strength that routes held-out rows best, the smallest of equals, and how it did."""
    folds = fold_numbers(len(rows), seed)
    held_out = held_out_by_strength(rows, outcomes, folds, C_GRID)
    best = int(np.argmax([routed_outcome(chances, outcomes) for chances in held_out]))
    return {
        "c": C_GRID[best],
        "held_out_outcome": routed_outcome(held_out[best], outcomes),
        "held_out_log_loss": log_loss(held_out[best], outcomes),
        "held_out_ece": expected_calibration_error(held_out[best], outcomes),
    }
