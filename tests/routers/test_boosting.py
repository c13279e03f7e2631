"""Boosted trees: the copied arrays against scikit-learn's own predictions."""

from __future__ import annotations

import numpy as np

from coe.routers.boosting import N_TREES, Trees, grown_trees


def test_walk_is_worked_by_hand() -> None:
    """x0 <= 0.5 gives 1; otherwise x1 <= 2 gives 10 and more than 2 gives 100."""
    trees = Trees(
        feature=np.array([0, 0, 1, 0, 0], np.int32),
        threshold=np.array([0.5, 0.0, 2.0, 0.0, 0.0]),
        children=np.array([[2, 1], [1, 1], [4, 3], [3, 3], [4, 4]], np.int32),
        value=np.array([0.0, 1.0, 0.0, 10.0, 100.0]),
        roots=np.array([0, 1], np.int32),
        depth=2,
    )
    rows = np.array([[0.5, 9.0], [0.6, 2.0], [0.6, 2.1]])
    np.testing.assert_allclose(trees.sums(rows, 1)[:, 0], [2.0, 11.0, 101.0])
    np.testing.assert_allclose(trees.sums(rows, 2)[:, 1], [1.0, 1.0, 1.0])


def test_arrays_predict_as_scikit_learn_does() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 4))
    outcomes = (rows[:, :2] * rows[:, 2:] > 0).astype(float)
    outcomes[::7, 1] = np.nan
    trees, base = grown_trees(rows, outcomes, seed=0)
    ours = base + trees.sums(rows, 2)
    for e in range(2):
        measured = ~np.isnan(outcomes[:, e])
        theirs = HistGradientBoostingRegressor(
            learning_rate=0.05,
            max_iter=N_TREES,
            max_leaf_nodes=8,
            min_samples_leaf=20,
            early_stopping=False,
            random_state=0,
        )
        # Beside other work its threads wait for each other far longer than one alone works.
        with threadpool_limits(1):
            theirs.fit(rows[measured], outcomes[measured, e])
        np.testing.assert_allclose(ours[:, e], theirs.predict(rows), atol=1e-9)
    assert ((ours[:, 0] > 0.5) == (outcomes[:, 0] > 0.5)).mean() > 0.9
