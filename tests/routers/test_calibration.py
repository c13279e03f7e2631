"""Calibration error and maps, against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import ConfigError
from coe.routers.calibration import METHODS, Calibration, expected_calibration_error


def test_calibration_error_is_worked_by_hand() -> None:
    """Two bins of ten: 0.15, 0.15 → 1 of 2 (gap .35), and 0.95, 0.95 → 2 of 2 (gap .05)."""
    predicted = np.array([0.15, 0.15, 0.95, 0.95])
    observed = np.array([0.0, 1.0, 1.0, 1.0])
    error = expected_calibration_error(predicted, observed, n_bins=10)
    assert error == pytest.approx(0.5 * 0.35 + 0.5 * 0.05)


def test_calibration_error_leaves_out_what_was_not_measured() -> None:
    assert expected_calibration_error(np.array([1.0, 0.3]), np.array([1.0, np.nan])) == 0.0
    assert np.isnan(expected_calibration_error(np.array([0.3]), np.array([np.nan])))


def test_platt_recovers_a_sigmoid() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 2))
    chances = 1 / (1 + np.exp(-(scores * [2.0, 0.5] + [1.0, -1.0])))
    outcomes = (rng.random(scores.shape) < chances).astype(float)
    outcomes[rng.random(scores.shape) < 0.3] = np.nan
    fitted = Calibration.fit("platt", scores, outcomes)
    np.testing.assert_allclose(fitted.knots, [[2.0, 0.5], [1.0, -1.0]], atol=0.12)


def test_platt_never_turns_the_order_round() -> None:
    scores = np.linspace(0, 1, 50)[:, None]
    fitted = Calibration.fit("platt", scores, 1.0 - scores)
    np.testing.assert_allclose(fitted.probabilities(scores), 0.5, atol=1e-6)


def test_isotonic_pools_adjacent_violators() -> None:
    """Outcomes 0, 1, 0, 1 in order of score: the middle two are pooled to one half."""
    scores = np.array([[0.1], [0.2], [0.3], [0.4]])
    fitted = Calibration.fit("isotonic", scores, np.array([[0.0], [1.0], [0.0], [1.0]]))
    asked = np.array([[-1.0], [0.1], [0.2], [0.25], [0.3], [9.0]])
    np.testing.assert_allclose(fitted.probabilities(asked)[:, 0], [0, 0, 0.5, 0.5, 0.5, 1])


@pytest.mark.parametrize("method", METHODS)
def test_maps_survive_as_arrays(method: str) -> None:
    scores = np.random.default_rng(1).random((40, 3))
    outcomes = np.round(scores)
    outcomes[:, 2] = np.nan
    fitted = Calibration.fit(method, scores, outcomes)  # type: ignore[arg-type]
    again = Calibration.of_arrays("x", fitted.arrays("x"))
    np.testing.assert_array_equal(fitted.probabilities(scores), again.probabilities(scores))
    if method != "none":
        # Never measured: as good as never chosen.
        assert fitted.probabilities(scores)[:, 2].max() < 0.01


def test_wrong_calibrations_are_refused() -> None:
    with pytest.raises(ConfigError, match="platt"):
        Calibration.fit("plat", np.zeros((1, 1)), np.zeros((1, 1)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fit it again"):
        Calibration.of_arrays("x", {})
