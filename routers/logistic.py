"""Logistic regressions for many experts at once, with soft and missing targets.

All experts share the features, so one factorisation of them preconditions every expert's problem
and a dozen steps of L-BFGS replace a few hundred. scipy is needed for fitting only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from coe.routing import FloatArray

_LEAST = 1e-7
_STEPS = 100
_PRECISION = 1e-7
"""Relative to the loss: a change of the mean by this is nothing beside its noise."""


def sigmoid(logits: FloatArray) -> FloatArray:
    """Stable for any logit."""
    halves: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return halves


def logit(probabilities: FloatArray) -> FloatArray:
    """The inverse of `sigmoid`, with probabilities kept away from 0 and 1."""
    kept = np.clip(probabilities, _LEAST, 1 - _LEAST)
    logits: FloatArray = np.log(kept) - np.log1p(-kept)
    return logits


def log_loss(probabilities: FloatArray, outcomes: FloatArray) -> float:
    """Mean cross-entropy over the measured cells, in nats; outcomes may be fractions."""
    measured = ~np.isnan(outcomes)
    p = np.clip(probabilities[measured], _LEAST, 1 - _LEAST)
    y = outcomes[measured]
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def smoothed_means(outcomes: FloatArray) -> FloatArray:
    """(n_experts,) means with half a success and half a failure more; 0 where never measured."""
    measured = ~np.isnan(outcomes)
    counts = measured.sum(axis=0)
    sums = np.where(measured, outcomes, 0.0).sum(axis=0)
    means: FloatArray = np.where(counts > 0, (sums + 0.5) / (counts + 1.0), 0.0)
    return means


class LogisticFits:
    """The regressions of every column of `outcomes` on the same features, at any strength."""

    def __init__(self, features: FloatArray, outcomes: FloatArray) -> None:
        """Features (n, d) finite; outcomes (n, n_experts) in [0, 1], NaN where not measured."""
        self._mean = features.mean(axis=0)
        centered = features - self._mean
        self._x = np.hstack([centered, np.ones((len(centered), 1))])
        self._powers, self._axes = np.linalg.eigh(self._x.T @ self._x)
        self._measured = ~np.isnan(outcomes)
        self._y = np.where(self._measured, outcomes, 0.0)
        self._base = logit(smoothed_means(outcomes))

    def fit(self, c: float) -> tuple[FloatArray, FloatArray]:
        """Weights (d, n_experts) and intercepts (n_experts,) for the features as they were given.

        Minimises cross-entropy + |w|² / (2 c), where the intercept of the centred features is
        drawn to the logit of the expert's mean. An expert never measured comes out near 0.
        """
        solved = self._solved(1.0 / c)
        weights = solved[:-1]
        return weights, self._base + solved[-1] - self._mean @ weights

    def _solved(self, penalty: float) -> FloatArray:
        # The curvature of cross-entropy is at most XᵀX / 4. In its eigenbasis, scaled by
        # its root, every direction is about equally steep.
        steps = 1.0 / np.sqrt(np.maximum(self._powers, 0.0) / 4.0 + penalty)
        rotated = self._x @ (self._axes * steps)
        shape = (rotated.shape[1], self._y.shape[1])

        def loss(flat: FloatArray) -> tuple[float, FloatArray]:
            u = flat.reshape(shape)
            logits = rotated @ u + self._base
            losses = np.logaddexp(0.0, logits) - self._y * logits
            shrunk = u * (penalty * steps**2)[:, None]
            value = (losses * self._measured).sum() + 0.5 * (u * shrunk).sum()
            slope = rotated.T @ ((sigmoid(logits) - self._y) * self._measured) + shrunk
            return float(value), slope.ravel()

        solved: FloatArray = (self._axes * steps) @ minimized(loss, np.zeros(shape)).reshape(shape)
        return solved


def minimized(
    loss: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray, steps: int = _STEPS
) -> FloatArray:
    """The flat minimiser that L-BFGS reaches from `start`; `loss` gives value and slope."""
    from scipy.optimize import minimize

    options = {"maxiter": steps, "ftol": _PRECISION, "gtol": 0.0}
    done = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    reached: FloatArray = done.x
    return reached


def held_out_by_strength(
    features: FloatArray, outcomes: FloatArray, folds: NDArray[np.intp], grid: Sequence[float]
) -> FloatArray:
    """(len(grid), n, n_experts) probabilities of each row's fold by the fits on the others."""
    held_out = np.zeros((len(grid), *outcomes.shape))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rest = ~held if not held.all() else held
        fits = LogisticFits(features[rest], outcomes[rest])
        for i, c in enumerate(grid):
            weights, intercepts = fits.fit(c)
            held_out[i, held] = sigmoid(features[held] @ weights + intercepts)
    return held_out
