"""The promises of every fitted scorer, held by those that learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.boosting import BoostingScorer
from coe.routers.category import CompositionScorer
from coe.routers.clusters import ClustersScorer
from coe.routers.ensemble import EnsembleScorer
from coe.routers.factorization import FactorizationScorer
from coe.routers.linear import LinearScorer
from coe.routers.pilots import PilotsScorer
from coe.routing import Encoder, Explainer
from coe.types import Query

KINDS: tuple[Any, ...] = (
    BoostingScorer,
    ClustersScorer,
    CompositionScorer,
    EnsembleScorer,
    FactorizationScorer,
    LinearScorer,
    PilotsScorer,
)
Kind = Callable[..., Any]
ASKED = [
    Query("sum plus"),
    Query("river city", category="places"),
    Query("unknown words"),
    Query(""),
]

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def test_scores_are_finite_and_shaped(kind: Any, table: OutcomeTable, encoder: Encoder) -> None:
    scorer = kind.fit(table, encoder)
    scores = scorer.score(ASKED)
    assert scores.shape == (4, 3)
    assert np.isfinite(scores).all()
    assert scorer.expert_ids == table.expert_ids
    assert scorer.score([]).shape == (0, 3)


def test_batch_equals_one_by_one(kind: Any, table: OutcomeTable, encoder: Encoder) -> None:
    scorer = kind.fit(table, encoder)
    singly = np.vstack([scorer.score([query]) for query in ASKED])
    np.testing.assert_allclose(scorer.score(ASKED), singly, atol=1e-6)


def test_fit_is_repeatable(kind: Any, table: OutcomeTable, encoder: Encoder) -> None:
    first = kind.fit(table, encoder).score(ASKED)
    np.testing.assert_array_equal(first, kind.fit(table, encoder).score(ASKED))


def test_artifact_round_trips(
    kind: Any, table: OutcomeTable, encoder: Encoder, tmp_path: Path
) -> None:
    scorer = kind.fit(table, encoder)
    scorer.artifact().save(tmp_path / "a")
    again = kind(Artifact.load(tmp_path / "a"), encoder)
    np.testing.assert_array_equal(scorer.score(ASKED), again.score(ASKED))
    assert again.artifact().manifest.scorer == kind.name
    assert again.artifact().manifest.data_digest == table.digest()


def test_unmeasured_outcomes_are_not_wrong_answers(
    kind: Any, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[::2, 1] = np.nan
    holed = kind.fit(replace(table, scores=scores), encoder).score(ASKED[1:2])
    assert abs(holed[0, 1] - kind.fit(table, encoder).score(ASKED[1:2])[0, 1]) < 0.25


def test_never_measured_expert_is_never_preferred(
    kind: Any, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    fitted = kind.fit(replace(table, scores=scores), encoder).score(ASKED)
    assert np.isfinite(fitted).all()
    assert (fitted.argmax(axis=1) != 2).all()


def test_explanation_names_the_expert_it_chooses(
    kind: Any, table: OutcomeTable, encoder: Encoder
) -> None:
    scorer = kind.fit(table, encoder)
    chosen = scorer.score(ASKED).argmax(axis=1)
    assert isinstance(scorer, Explainer)
    for query, best in zip(ASKED, chosen, strict=True):
        (reason,) = scorer.explain(query)
        assert table.expert_ids[best] in reason


def test_a_single_query_and_expert_suffice(
    kind: Any, table: OutcomeTable, encoder: Encoder
) -> None:
    del table
    if kind is PilotsScorer:
        pytest.skip("pilots need two experts that differ; see test_pilots")
    one = OutcomeTable((Query("sum", "1", "maths"),), ("a",), np.array([[1.0]]))
    assert np.isfinite(kind.fit(one, encoder).score(ASKED)).all()
