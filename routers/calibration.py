"""Do predicted probabilities come true, and maps that make them.

Platt's sigmoid (Platt 1999) and isotonic regression (Zadrozny and Elkan 2002), one map for each
expert, fitted on held-out scores. The expected calibration error is that of Naeini et al. 2015
and Guo et al. 2017 (arXiv 1706.04599, equation 3), over equal-width bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError
from coe.routers.logistic import logit, sigmoid, smoothed_means
from coe.routing import FloatArray

Method = Literal["none", "platt", "isotonic"]
METHODS: tuple[Method, ...] = ("none", "platt", "isotonic")
_NEWTON_STEPS = 50


def expected_calibration_error(
    probabilities: FloatArray, outcomes: FloatArray, n_bins: int = 15
) -> float:
    """Mean gap between predicted and observed, over equal-width bins weighted by their cells.

    Arrays of one shape; cells whose outcome is NaN are left out, and without any it is NaN.
    """
    measured = ~np.isnan(outcomes)
    predicted, observed = probabilities[measured], outcomes[measured]
    if len(predicted) == 0:
        return float("nan")
    bins = np.clip((predicted * n_bins).astype(int), 0, n_bins - 1)
    gaps = np.bincount(bins, weights=predicted - observed, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(predicted))


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Monotone maps from scores to probabilities, one an expert."""

    method: Method
    knots: FloatArray
    """Platt: (2, n_experts) slope and intercept. Isotonic: (2, n_experts, n_knots) scores and
    probabilities, each row filled up with its last knot. None: of no use."""

    @classmethod
    def fit(cls, method: Method, scores: FloatArray, outcomes: FloatArray) -> Calibration:
        """Both (n, n_experts), the scores of rows that were held out; NaN outcomes are ignored."""
        if method not in METHODS:
            raise ConfigError(f"unknown calibration {method!r} (known: {', '.join(METHODS)})")
        if method == "platt":
            return cls(method, _platt(scores, outcomes))
        if method == "isotonic":
            return cls(method, _isotonic(scores, outcomes))
        return cls("none", np.zeros(0))

    def probabilities(self, scores: FloatArray) -> FloatArray:
        """(n, n_experts), in [0, 1] except where the method is "none"."""
        if self.method == "platt":
            return sigmoid(scores * self.knots[0] + self.knots[1])
        if self.method == "isotonic":
            columns = [
                np.interp(scores[:, e], self.knots[0, e], self.knots[1, e])
                for e in range(scores.shape[1])
            ]
            return np.stack(columns, axis=1)
        return scores

    def arrays(self, prefix: str) -> Mapping[str, NDArray[Any]]:
        return {f"{prefix}.{self.method}": self.knots}

    @classmethod
    def of_arrays(cls, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """What `arrays` gave; raises `ConfigError` if nothing of that prefix is there."""
        for method in METHODS:
            if f"{prefix}.{method}" in arrays:
                return cls(method, arrays[f"{prefix}.{method}"])
        raise ConfigError(f"the artifact has no calibration {prefix!r}; fit it again")


def _platt(scores: FloatArray, outcomes: FloatArray) -> FloatArray:
    """Slope and intercept of each expert, by Newton's method on standardised scores.

    Platt's own targets, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), keep perfect separation finite.
    A slope below 0 would turn the scorer's order round and is put at 0.
    """
    measured = ~np.isnan(outcomes)
    wins = np.where(measured, outcomes, 0.0)
    n_wins, n_losses = wins.sum(axis=0), (measured - wins).sum(axis=0)
    targets = wins * (n_wins + 1) / (n_wins + 2) + (measured - wins) / (n_losses + 2)
    counts = np.maximum(measured.sum(axis=0), 1)
    center = (scores * measured).sum(axis=0) / counts
    spread = np.sqrt((((scores - center) * measured) ** 2).sum(axis=0) / counts)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    x = (scores - center) * scale
    base = logit(smoothed_means(outcomes))
    slope, intercept = np.zeros(len(base)), base.copy()
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(x * slope + intercept)
        residual = (p - targets) * measured
        weight = np.maximum(p * (1 - p), 1e-6) * measured
        # 2 x 2 systems, one an expert; the ridge keeps those without data or spread solvable.
        aa, ab, bb = (weight * x * x).sum(0) + 1e-3, (weight * x).sum(0), weight.sum(0) + 1e-3
        ga, gb = (residual * x).sum(0) + 1e-3 * slope, residual.sum(0) + 1e-3 * (intercept - base)
        determinant = aa * bb - ab * ab
        slope = slope - (bb * ga - ab * gb) / determinant
        intercept = intercept - (aa * gb - ab * ga) / determinant
    reversed_ = slope < 0
    slope = np.where(reversed_, 0.0, slope) * scale
    intercept = np.where(reversed_, base, intercept) - slope * center
    return np.stack([slope, intercept])


def _isotonic(scores: FloatArray, outcomes: FloatArray) -> FloatArray:
    from sklearn.isotonic import IsotonicRegression

    curves: list[tuple[FloatArray, FloatArray]] = []
    for e in range(scores.shape[1]):
        measured = ~np.isnan(outcomes[:, e])
        if not measured.any():
            curves.append((np.zeros(1), np.zeros(1)))
            continue
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fitted.fit(scores[measured, e], outcomes[measured, e])
        curves.append((fitted.X_thresholds_, fitted.y_thresholds_))
    longest = max(len(x) for x, _ in curves)
    knots = np.empty((2, len(curves), longest))
    for e, (x, y) in enumerate(curves):
        knots[0, e], knots[1, e] = x[-1], y[-1]
        knots[0, e, : len(x)], knots[1, e, : len(y)] = x, y
    return knots
