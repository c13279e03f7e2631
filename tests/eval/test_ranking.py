"""nDCG@k and recall@k agree with trec_eval's own code, ties and all."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.ranking import ndcg, ranked, recall


def _random_run(rng: np.random.Generator, n_documents: int) -> dict[str, float]:
    """Scores on a coarse grid, so that many tie."""
    ids = rng.permutation(3 * n_documents)[:n_documents]
    return {f"d{i}": float(rng.integers(6)) / 4 for i in ids}


def test_measures_agree_with_pytrec_eval_on_runs_full_of_ties() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(7)
    for _ in range(200):
        run = _random_run(rng, int(rng.integers(1, 150)))
        qrels = {f"d{i}": int(rng.integers(0, 5)) for i in range(0, 400, int(rng.integers(2, 60)))}
        qrels["d0"] = 3
        judge = pytrec_eval.RelevanceEvaluator({"q": qrels}, {"ndcg_cut.10", "recall.100"})
        theirs = judge.evaluate({"q": run})["q"]
        found = ranked(run)
        assert ndcg(found, qrels, 10) == pytest.approx(theirs["ndcg_cut_10"], abs=1e-9)
        assert recall(found, qrels, 100) == pytest.approx(theirs["recall_100"], abs=1e-9)


def test_equal_scores_are_ordered_by_descending_id() -> None:
    assert ranked({"a": 1.0, "c": 1.0, "b": 1.0, "d": 2.0}) == ["d", "c", "b", "a"]
    assert ranked({"10": 0.5, "9": 0.5}) == ["9", "10"]


def test_ndcg_by_hand_has_linear_gain_and_log2_discount() -> None:
    qrels = {"a": 3, "b": 1, "c": 2}
    got = 1 / log2(2) + 3 / log2(4)
    best = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert ndcg(["b", "x", "a"], qrels) == pytest.approx(got / best)
    assert ndcg(["a", "c", "b"], qrels) == 1.0
    assert ndcg([], qrels) == 0.0


def test_cut_bounds_what_is_found_and_what_is_ideal() -> None:
    qrels = {"a": 1, "b": 1, "c": 1}
    assert ndcg(["a", "b"], qrels, k=2) == 1.0
    assert ndcg(["x", "y", "a"], qrels, k=2) == 0.0
    assert recall(["a", "x", "b"], qrels, k=2) == pytest.approx(1 / 3)


def test_grades_of_zero_and_below_are_not_relevant() -> None:
    assert ndcg(["b", "a"], {"a": 2, "b": -1}) == pytest.approx(1 / log2(3))
    assert recall(["a"], {"a": 1, "b": 0}) == 1.0


@pytest.mark.parametrize("measure", [ndcg, recall])
def test_query_that_nothing_answers_has_no_measure(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(DatasetError, match="without any relevant document"):
        measure(["a"], {"a": 0})
