from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.eval.pareto import Curve, Gap, apgr, cpt, equal_quality_cost, hull, swept_curve

# The cheapest costs 1 and is right 20 % of the time, the best single costs 5 and 60 %.
GAP = Gap(weak_cost=1.0, weak_quality=0.2, strong_cost=5.0, strong_quality=0.6)
NO_GAP = Gap(weak_cost=1.0, weak_quality=0.6, strong_cost=1.0, strong_quality=0.6)


def _curve(*points: tuple[float, float]) -> Curve:
    return Curve.of(*np.array(points).T)


def test_coin_recovers_half_of_the_gap_on_average() -> None:
    coin = GAP.coin()
    assert apgr(coin, GAP) == pytest.approx(0.5)
    assert cpt(coin, GAP, 0.5) == pytest.approx(0.5)
    assert cpt(coin, GAP, 0.8) == pytest.approx(0.8)
    assert equal_quality_cost(coin, GAP) == pytest.approx(1.0)


def test_numbers_of_a_curve_worked_by_hand() -> None:
    # Cost shares 0, 0.25, 0.5, 1.0; gaps recovered 0, 0.5, 1.0, 1.25.
    curve = _curve((5, 0.7), (1, 0.2), (3, 0.6), (2, 0.4))
    assert apgr(curve, GAP) == pytest.approx(0.25 * 0.25 + 0.25 * 0.75 + 0.5 * 1.125)
    assert cpt(curve, GAP, 0.5) == pytest.approx(0.25)
    assert cpt(curve, GAP, 0.8) == pytest.approx(0.25 + 0.25 * 0.3 / 0.5)
    assert equal_quality_cost(curve, GAP) == pytest.approx(3 / 5)


def test_curve_that_ends_early_stays_flat_and_one_that_goes_on_is_cut() -> None:
    # Reaches PGR 0.5 at share 0.5 and spends no more.
    assert apgr(_curve((1, 0.2), (3, 0.4)), GAP) == pytest.approx(0.125 + 0.25)
    # A straight line on to share 2 is the coin's up to share 1.
    assert apgr(_curve((1, 0.2), (9, 1.0)), GAP) == pytest.approx(0.5)


def test_what_is_never_reached_has_no_cost() -> None:
    curve = _curve((1, 0.2), (5, 0.5))
    assert np.isnan(cpt(curve, GAP, 0.8))
    assert np.isnan(equal_quality_cost(curve, GAP))


def test_of_a_free_expert_nothing_can_be_saved() -> None:
    free = Gap(weak_cost=0.0, weak_quality=0.6, strong_cost=0.0, strong_quality=0.6)
    assert np.isnan(equal_quality_cost(_curve((0, 0.6), (2, 0.7)), free))


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    assert np.isnan(apgr(NO_GAP.coin(), NO_GAP))
    assert np.isnan(cpt(NO_GAP.coin(), NO_GAP, 0.5))


def test_least_cost_is_the_first_crossing() -> None:
    dips = _curve((1, 0.2), (2, 0.6), (3, 0.4), (4, 0.8))
    assert dips.least_cost(0.5) == pytest.approx(1.75)
    assert dips.least_cost(0.1) == 1.0


def test_of_points_of_one_cost_the_best_is_kept() -> None:
    curve = _curve((2, 0.3), (1, 0.2), (2, 0.5))
    np.testing.assert_array_equal(curve.costs, [1, 2])
    np.testing.assert_array_equal(curve.quality, [0.2, 0.5])


def test_hull_goes_from_the_cheapest_to_the_best() -> None:
    costs = np.array([4.0, 1.0, 2.0, 3.0, 5.0, 1.0])
    quality = np.array([0.6, 0.2, 0.3, 0.55, 0.5, 0.1])
    # At cost 2 the line from (1, 0.2) to (3, 0.55) is higher; cost 5 is dear and worse.
    np.testing.assert_array_equal(hull(costs, quality), [1, 3, 0])


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=12, unique=True)
)
def test_no_expert_lies_above_the_hull(points: list[tuple[float, float]]) -> None:
    costs, quality = np.array(points).T
    corners = hull(costs, quality)
    curve = Curve.of(costs[corners], quality[corners])
    assert (quality <= curve.at(costs) + 1e-9).all()
    assert (np.diff(quality[corners]) > 0).all()


def test_sweep_goes_from_the_best_scores_to_the_cheapest_expert() -> None:
    costs = np.array([1.0, 3.0])
    scores = np.array([[0.5, 0.9], [0.5, 0.6], [0.8, 0.1]])
    outcomes = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    curve = swept_curve(scores, costs, outcomes, np.broadcast_to(costs, scores.shape))
    # Worth of the dear one: 0.2, 0.05 and none for each unit of cost.
    np.testing.assert_allclose(curve.costs, [1.0, 5 / 3, 7 / 3])
    np.testing.assert_allclose(curve.quality, [1 / 3, 2 / 3, 1.0])


def test_sweep_leaves_out_what_was_not_measured() -> None:
    costs = np.array([1.0, 3.0])
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])
    outcomes = np.array([[np.nan, 1.0], [1.0, 1.0]])
    curve = swept_curve(scores, costs, outcomes, np.broadcast_to(costs, scores.shape))
    np.testing.assert_array_equal(curve.costs, [1.0])
    np.testing.assert_array_equal(curve.quality, [1.0])


def test_sweep_counts_what_was_spent_and_decides_by_what_was_expected() -> None:
    expected = np.array([1.0, 3.0])
    spent = np.array([[2.0, 10.0], [4.0, 20.0]])
    scores = np.array([[0.5, 0.9], [0.5, 0.9]])
    curve = swept_curve(scores, expected, np.array([[0.0, 1.0], [0.0, 1.0]]), spent)
    np.testing.assert_array_equal(curve.costs, [3.0, 15.0])
