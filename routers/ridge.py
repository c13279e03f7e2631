"""Ridge regression on the embedding and category, with slopes of each category's own.

The penalty draws a category's slopes (`coe.routers.category_slopes`) to those of all categories,
as in a mixed model. It is chosen by how well *differences* between the leading experts are
predicted on held-out queries: they alone decide the route, and their squared error is far less
noisy than the outcome of routing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.errors import ConfigError, DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibration import expected_calibration_error
from coe.routers.category_slopes import SlopeFeatures
from coe.routers.folds import fold_numbers, routed_outcome
from coe.routers.linear import CategoryFeatures
from coe.routers.logistic import smoothed_means
from coe.routing import Encoder, FloatArray
from coe.types import Query

PENALTY_GRID = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Of squared error on outcomes from 0 to 1; does not grow with the number of queries."""
N_LEADING = 4
"""How many experts, by mean outcome, the differences are taken between."""
_MARGIN = 0.02
_NEVER = -1.0
"""Prediction for an expert that was never measured: below any other."""


class RidgeScorer:
    """Each expert's expected outcome, by ridge regression with slopes for each category."""

    name = "ridge"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        settings, arrays = artifact.manifest.settings, artifact.arrays
        self.penalty = float(settings["penalty"])
        categories = CategoryFeatures(settings["categories"], arrays["guess"])
        self._features = SlopeFeatures(categories, arrays)
        self._weights = arrays["weights"].astype(np.float64)
        self._intercepts = arrays["intercepts"]

    @classmethod
    def fit(
        cls, table: OutcomeTable, encoder: Encoder, penalty: float | None = None, seed: int = 0
    ) -> RidgeScorer:
        """`penalty` None takes that of `PENALTY_GRID` which predicts held-out differences best."""
        if table.n_queries == 0:
            raise DatasetError("ridge regression needs at least one query to be fitted on")
        if penalty is not None and not penalty > 0.0:
            raise ConfigError(f"penalty {penalty}; it must be above 0")
        vectors = encoder.encode([query.text for query in table.queries])
        features = SlopeFeatures.fit(table.queries, vectors)
        rows = features.rows(table.queries, vectors)
        tuned = _tuned(rows, table.scores, seed) if penalty is None else {"penalty": penalty}
        [(weights, intercepts)] = ridge_fits(rows, table.scores, [tuned["penalty"]])
        settings = {
            **tuned,
            "penalty_given": penalty is not None,
            "categories": list(features.categories.categories),
            "seed": seed,
        }
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        arrays = {
            **features.arrays(),
            "weights": weights.astype(np.float32),
            "intercepts": intercepts,
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        rows = self._features.rows(queries, vectors)
        return kept_inside(rows @ self._weights + self._intercepts)

    def explain(self, query: Query) -> tuple[str, ...]:
        chances = self.score([query])[0]
        best = int(np.argmax(chances))
        given = query.category in self._features.categories.categories
        about = f"by category {query.category!r}" if given else "by a guessed category"
        return (
            f"from the words, read {about}, {self.expert_ids[best]} is expected to score "
            f"{chances[best]:.0%}",
        )


def kept_inside(predictions: FloatArray) -> FloatArray:
    """Predictions between 0 and 1 in the same order: bent within 0.02 of an end, else as they are.

    A line does not know that outcomes end at 0 and 1, and cutting it off there would tie experts.
    """
    low, high = np.minimum(predictions, _MARGIN), np.maximum(predictions, 1.0 - _MARGIN)
    kept: FloatArray = np.where(
        predictions < _MARGIN, _MARGIN * np.exp(low / _MARGIN - 1.0), predictions
    )
    kept = np.where(
        predictions > 1.0 - _MARGIN, 1.0 - _MARGIN * np.exp((1.0 - high) / _MARGIN - 1.0), kept
    )
    return kept


def ridge_fits(
    rows: FloatArray, outcomes: FloatArray, penalties: Sequence[float]
) -> list[tuple[FloatArray, FloatArray]]:
    """Weights (d, n_experts) and intercepts (n_experts,) for each penalty on the weights.

    Experts measured on the same queries are solved together. One that was never measured gets
    no weights and an intercept below any prediction.
    """
    n_features, n_experts = rows.shape[1], outcomes.shape[1]
    fits: list[tuple[FloatArray, FloatArray]] = [
        (np.zeros((n_features, n_experts)), np.full(n_experts, _NEVER)) for _ in penalties
    ]
    measured = ~np.isnan(outcomes)
    patterns, pattern_of = np.unique(measured.T, axis=0, return_inverse=True)
    for i, known in enumerate(patterns):
        if not known.any():
            continue
        experts = np.flatnonzero(pattern_of.ravel() == i)
        x, y = rows[known], outcomes[np.ix_(known, experts)]
        mean, base = x.mean(axis=0), smoothed_means(y)
        centered = x - mean
        gram, slope = centered.T @ centered, centered.T @ (y - y.mean(axis=0))
        for (weights, intercepts), penalty in zip(fits, penalties, strict=True):
            solved = np.linalg.solve(gram + penalty * np.eye(n_features), slope)
            weights[:, experts] = solved
            intercepts[experts] = base - mean @ solved
    return fits


def difference_error(predicted: FloatArray, outcomes: FloatArray) -> float:
    """Mean squared error of the leading experts' leads over each other, on the same query.

    The leading ones are the `N_LEADING` of the best mean outcome. Where no query has two of them
    measured, it is the error of the predictions themselves.
    """
    leading = np.argsort(-smoothed_means(outcomes), kind="stable")[:N_LEADING]
    missed = predicted[:, leading] - outcomes[:, leading]
    measured = ~np.isnan(missed)
    compared = measured.sum(axis=1) > 1
    if compared.any():
        missed, measured = missed[compared], measured[compared]
        missed = missed - np.nanmean(missed, axis=1, keepdims=True)
    return float((missed[measured] ** 2).mean()) if measured.any() else 0.0


def _tuned(rows: FloatArray, outcomes: FloatArray, seed: int) -> dict[str, float]:
    """The penalty that predicts held-out differences best, the smallest of equals."""
    folds = fold_numbers(len(rows), seed)
    held_out = np.zeros((len(PENALTY_GRID), *outcomes.shape))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rest = ~held if not held.all() else held
        fits = ridge_fits(rows[rest], outcomes[rest], PENALTY_GRID)
        for i, (weights, intercepts) in enumerate(fits):
            held_out[i, held] = rows[held] @ weights + intercepts
    errors = [difference_error(predicted, outcomes) for predicted in held_out]
    best = int(np.argmin(errors))
    return {
        "penalty": PENALTY_GRID[best],
        "held_out_difference_error": errors[best],
        "held_out_outcome": routed_outcome(held_out[best], outcomes),
        "held_out_ece": expected_calibration_error(kept_inside(held_out[best]), outcomes),
    }
