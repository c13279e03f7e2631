"""Means with bootstrap intervals: the one place where uncertainty is computed.

Queries are resampled, percentiles of the resampled means are the interval. Values that are NaN
were not measured: they are left out and counted, never averaged as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.outcomes import FloatArray

_LEVEL = 0.95
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval. Bounds are NaN below two measured values."""

    mean: float
    """NaN if nothing was measured."""
    low: float
    high: float
    n: int
    """Measured values."""
    n_missing: int
    """Values left out because they were not measured."""


def bootstrap_mean(
    values: FloatArray, rng: np.random.Generator, n_resamples: int = 2000
) -> Interval:
    """The mean of one number per query, with its interval over queries."""
    measured = values[~np.isnan(values)]
    n = len(measured)
    if n < 2:
        mean = float(measured[0]) if n else np.nan
        return Interval(mean, np.nan, np.nan, n, len(values) - n)
    means = _resampled_means(measured, rng, n_resamples)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(measured.mean()), float(low), float(high), n, len(values) - n)


def bootstrap_difference(
    values: FloatArray, reference: FloatArray, rng: np.random.Generator, n_resamples: int = 2000
) -> Interval:
    """The mean of `values - reference`, paired by query; a pair needs both measured."""
    return bootstrap_mean(values - reference, rng, n_resamples)


def _resampled_means(
    measured: FloatArray, rng: np.random.Generator, n_resamples: int
) -> FloatArray:
    """(n_resamples,) means of as many draws with replacement as there are values.

    How often each distinct value is drawn is multinomial, which is the same distribution as
    drawing the values one by one and far cheaper where they are only right or wrong.
    """
    distinct, counts = np.unique(measured, return_counts=True)
    n = len(measured)
    step = max(1, _CELLS_AT_ONCE // len(distinct))
    parts = [
        rng.multinomial(n, counts / n, size=min(step, n_resamples - start)) @ distinct / n
        for start in range(0, n_resamples, step)
    ]
    return np.concatenate(parts)
