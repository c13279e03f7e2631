from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from coe.eval import intervals
from coe.eval.intervals import bootstrap_difference, bootstrap_mean


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_interval_of_a_proportion_is_the_known_one() -> None:
    values = np.repeat([0.0, 1.0], [300, 700])
    interval = bootstrap_mean(values, _rng(), 20_000)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert interval.mean == pytest.approx(0.7)
    assert interval.low == pytest.approx(0.7 - half, abs=0.002)
    assert interval.high == pytest.approx(0.7 + half, abs=0.002)


def test_interval_of_distinct_values_is_that_of_drawing_them_one_by_one() -> None:
    values = np.random.default_rng(1).normal(size=400)
    drawn = values[np.random.default_rng(2).integers(0, 400, (20_000, 400))].mean(axis=1)
    interval = bootstrap_mean(values, _rng(), 20_000)
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.004
    )


def test_values_not_measured_are_left_out_and_counted() -> None:
    interval = bootstrap_mean(np.array([1.0, np.nan, 1.0, np.nan, 1.0]), _rng())
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)
    assert (interval.n, interval.n_missing) == (3, 2)


@pytest.mark.parametrize(("values", "mean"), [([], np.nan), ([np.nan], np.nan), ([0.5], 0.5)])
def test_bounds_need_two_values(values: list[float], mean: float) -> None:
    interval = bootstrap_mean(np.array(values, float), _rng())
    assert interval.mean == pytest.approx(mean, nan_ok=True)
    assert isnan(interval.low)
    assert isnan(interval.high)


def test_difference_is_paired_by_query() -> None:
    values = np.random.default_rng(3).random(200)
    interval = bootstrap_difference(values + 0.1, values, _rng())
    # Unpaired, the spread of the values would make the interval wide.
    assert interval.high - interval.low < 1e-9
    assert interval.mean == pytest.approx(0.1)


def test_difference_needs_both_measured() -> None:
    interval = bootstrap_difference(np.array([1.0, 1.0, np.nan]), np.array([0, np.nan, 0]), _rng())
    assert (interval.n, interval.n_missing) == (1, 2)


def test_resampling_in_parts_gives_as_many_means(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_mean(values, _rng(), 1000)
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 50 * 7)
    assert bootstrap_mean(values, _rng(), 1000) == whole


def test_same_generator_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).random(50)
    assert bootstrap_mean(values, _rng()) == bootstrap_mean(values, _rng())


@pytest.mark.parametrize(("n", "chance"), [(50, 0.5), (200, 0.3), (400, 0.9)])
def test_interval_covers_the_truth_about_as_often_as_it_says(n: int, chance: float) -> None:
    rng = np.random.default_rng(n)
    drawn = (rng.random((600, n)) < chance).astype(float)
    intervals = [bootstrap_mean(values, rng, n_resamples=500) for values in drawn]
    covered = np.mean([each.low <= chance <= each.high for each in intervals])
    # 95 %; 600 draws leave 0.9 points of error, and a bootstrap of few right or wrong is short.
    assert 0.915 <= covered <= 0.98
