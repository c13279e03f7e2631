"""Every scorer on outcomes as feedback leaves them: one measured expert a query."""

from __future__ import annotations

import numpy as np
import pytest

from coe.assembly import SCORERS
from coe.outcomes import FloatArray, OutcomeTable
from coe.routing import Encoder
from coe.types import Query


def _with_feedback(table: OutcomeTable, kept: FloatArray) -> OutcomeTable:
    """The table, and its queries again without category where only `kept` is measured."""
    rated = tuple(Query(query.text, f"d{query.id}") for query in table.queries)
    scores = np.vstack([table.scores, np.where(kept, table.scores, np.nan)])
    return OutcomeTable(table.queries + rated, table.expert_ids, scores)


def _one_each(table: OutcomeTable) -> FloatArray:
    asked = np.random.default_rng(0).integers(len(table.expert_ids), size=table.n_queries)
    one: FloatArray = np.eye(len(table.expert_ids), dtype=bool)[asked]
    return one


# Neither tells queries of one kind from another: the first by design, the second on so few.
_BLIND = ("best-single", "factorization")
# The others compare experts on the same queries, or on the same neighbours.
_LEARN_FROM_ONE = ("boosting", "clusters", "composition", "linear")


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_fits_on_rows_with_one_measured_expert(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    sparse = _with_feedback(table, _one_each(table))
    scores = SCORERS[name].fit(sparse, encoder).score(sparse.queries)
    assert scores.shape == (60, 3)
    assert np.isfinite(scores).all()
    if name not in _BLIND:
        assert (scores[:30].argmax(axis=1) == np.arange(30) % 3).all()


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_leaves_out_an_expert_that_was_never_measured(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    known = OutcomeTable(table.queries, table.expert_ids, scores)
    sparse = _with_feedback(known, _one_each(known))
    measured = sparse.rows(np.flatnonzero((~np.isnan(sparse.scores)).any(axis=1)))
    predicted = SCORERS[name].fit(measured, encoder).score(table.queries)
    assert np.isfinite(predicted).all()
    assert (predicted.argmax(axis=1) != 2).all()


@pytest.mark.parametrize("name", SCORERS)
def test_scorer_learns_of_an_expert_from_feedback_alone(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    known = OutcomeTable(table.queries, table.expert_ids, scores)
    rated = tuple(Query(query.text, f"d{query.id}") for query in table.queries)
    only = np.full(table.scores.shape, np.nan)
    only[:, 2] = table.scores[:, 2]
    both = OutcomeTable(known.queries + rated, table.expert_ids, np.vstack([known.scores, only]))
    predicted = SCORERS[name].fit(both, encoder).score(rated)
    assert np.isfinite(predicted).all()
    if name in _LEARN_FROM_ONE:
        chemistry = np.arange(30) % 3 == 2
        assert (predicted[chemistry].argmax(axis=1) == 2).all()
