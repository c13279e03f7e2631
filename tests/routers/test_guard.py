"""Whether a router is used: verdicts from held-out queries, sparse ones among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.outcomes import OutcomeTable
from coe.routers.policies.guard import (
    MIN_QUERIES,
    JudgedScorer,
    Verdict,
    comparable,
    held_out_as_asked,
    judged,
)
from coe.routing import Encoder, FloatArray, Scorer
from coe.types import Query

NAN = float("nan")


class _Told:
    """The second expert where the category is known to be y, the same for everything else."""

    name = "told"
    expert_ids = ("x", "y")

    def __init__(self, reads_text: bool) -> None:
        self._reads_text = reads_text

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [
                [0.5, float(q.category == "y" or (self._reads_text and q.text.startswith("y")))]
                for q in queries
            ]
        )


def _table(n: int, *outcomes: Sequence[float]) -> OutcomeTable:
    """Rows that repeat the given ones; the first kind's texts begin with y."""
    kinds = [i % len(outcomes) for i in range(n)]
    queries = tuple(
        Query(f"{'y' if kind == 0 else 'x'} {i}", str(i), "y" if kind == 0 else "x")
        for i, kind in enumerate(kinds)
    )
    return OutcomeTable(queries, ("x", "y"), np.array([outcomes[kind] for kind in kinds]))


@pytest.fixture
def helps() -> OutcomeTable:
    return _table(60, (0.0, 1.0), (1.0, 0.0), (1.0, 0.0))


def test_verdict_of_a_router_that_helps(helps: OutcomeTable) -> None:
    verdict = judged(helps.scores, helps)
    assert verdict is not None
    assert verdict.is_kept
    assert (verdict.best_single, verdict.n_queries) == ("x", 60)
    assert verdict.gain == pytest.approx(1 / 3)
    assert verdict.means == pytest.approx({"x": 2 / 3, "y": 1 / 3})
    assert str(verdict) == "on 60 held-out queries routing beats x alone (+33.3%)"


def test_verdict_survives_the_manifest(helps: OutcomeTable) -> None:
    verdict = Verdict.of(helps.scores, helps)
    assert Verdict.of_manifest(verdict.manifest()) == verdict


def test_too_few_queries_are_no_verdict(helps: OutcomeTable) -> None:
    few = helps.rows(np.arange(MIN_QUERIES - 1))
    assert judged(few.scores, few) is None
    enough = helps.rows(np.arange(MIN_QUERIES))
    assert judged(enough.scores, enough) is not None


def test_queries_with_one_measured_expert_decide_nothing(helps: OutcomeTable) -> None:
    """They would call every router equal to the best single expert, or y the best of all."""
    praised = OutcomeTable(
        tuple(Query("z", f"z{i}") for i in range(500)), ("x", "y"), np.tile([NAN, 1.0], (500, 1))
    )
    both = OutcomeTable(
        helps.queries + praised.queries, ("x", "y"), np.vstack([helps.scores, praised.scores])
    )
    assert comparable(both).sum() == 60
    assert judged(np.nan_to_num(both.scores), both) == judged(helps.scores, helps)


def test_routed_expert_that_was_not_measured_does_not_count() -> None:
    table = OutcomeTable(
        tuple(Query("q", str(i)) for i in range(60)),
        ("x", "y", "new"),
        np.tile([1.0, 0.0, NAN], (60, 1)),
    )
    assert judged(np.tile([0.0, 0.0, 1.0], (60, 1)), table) is None


def test_judged_scorer_that_is_not_kept_is_its_best_single_expert(helps: OutcomeTable) -> None:
    verdict = Verdict.of(1 - helps.scores, helps)
    assert not verdict.is_kept
    scorer = JudgedScorer(_Told(reads_text=True), verdict)
    assert scorer.name == "best-single"
    np.testing.assert_allclose(scorer.score([Query("y")]), [[2 / 3, 1 / 3]])
    (reason,) = scorer.explain(Query("y"))
    assert reason.endswith("so experts are ranked by their overall record")


def test_judged_scorer_that_is_kept_is_itself(helps: OutcomeTable) -> None:
    scorer = JudgedScorer(_Told(reads_text=True), Verdict.of(helps.scores, helps))
    assert scorer.name == "told"
    np.testing.assert_array_equal(scorer.score([Query("y"), Query("x")]), [[0.5, 1], [0.5, 0]])
    assert "beats x alone" in scorer.explain(Query("y"))[-1]


@pytest.mark.parametrize("reads_text", [True, False])
def test_queries_are_held_out_as_they_are_asked(
    helps: OutcomeTable, encoder: Encoder, reads_text: bool
) -> None:
    """Without a category, unless the scorer then has nothing to go by."""
    seen: list[int] = []

    def fit(table: OutcomeTable, encoder: Encoder) -> Scorer:
        seen.append(table.n_queries)
        return _Told(reads_text)

    hidden = OutcomeTable(
        tuple(Query(q.text, q.id, "y") for q in helps.queries), ("x", "y"), helps.scores
    )
    scores = held_out_as_asked(fit, hidden, encoder)
    assert seen == [48] * 5
    told_y = [q.text.startswith("y") for q in helps.queries] if reads_text else [True] * 60
    np.testing.assert_array_equal(scores[:, 1], np.array(told_y, dtype=float))
