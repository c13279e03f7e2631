"""What every fitted scorer promises, whichever method it implements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.assembly import SCORERS
from coe.errors import ConfigError, PoolMismatch
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routing import Encoder, Explainer
from coe.types import Query

pytestmark = pytest.mark.parametrize("name", SCORERS)
ASKED = [
    Query("sum plus"),
    Query("river city", category="places"),
    Query("unknown words"),
    Query(""),
]


def test_scores_are_finite_and_shaped(name: str, table: OutcomeTable, encoder: Encoder) -> None:
    scorer = SCORERS[name].fit(table, encoder)
    scores = scorer.score(ASKED)
    assert scores.shape == (4, 3)
    assert np.isfinite(scores).all()
    assert scorer.expert_ids == table.expert_ids
    assert scorer.name == name
    assert scorer.score([]).shape == (0, 3)


def test_batch_equals_one_by_one(name: str, table: OutcomeTable, encoder: Encoder) -> None:
    scorer = SCORERS[name].fit(table, encoder)
    singly = np.vstack([scorer.score([query]) for query in ASKED])
    np.testing.assert_allclose(scorer.score(ASKED), singly, atol=1e-6)


def test_fit_is_repeatable(name: str, table: OutcomeTable, encoder: Encoder) -> None:
    first = SCORERS[name].fit(table, encoder).score(ASKED)
    np.testing.assert_array_equal(first, SCORERS[name].fit(table, encoder).score(ASKED))


def test_artifact_round_trips(
    name: str, table: OutcomeTable, encoder: Encoder, tmp_path: Path
) -> None:
    scorer = SCORERS[name].fit(table, encoder)
    scorer.artifact().save(tmp_path / "a")
    again = SCORERS[name].restore(Artifact.load(tmp_path / "a"), encoder)
    np.testing.assert_array_equal(scorer.score(ASKED), again.score(ASKED))
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    assert manifest["scorer"] == name
    assert manifest["expert_ids"] == ["calc", "geo", "chem"]
    assert manifest["data_digest"] == table.digest()


def test_unmeasured_outcomes_are_not_wrong_answers(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    """Hiding half of an expert's column at random must not make it look half as good."""
    scores = table.scores.copy()
    scores[::2, 1] = np.nan
    holed = SCORERS[name].fit(replace(table, scores=scores), encoder)
    whole = SCORERS[name].fit(table, encoder)
    asked = [Query("river city", category="places")]
    assert abs(holed.score(asked)[0, 1] - whole.score(asked)[0, 1]) < 0.25


def test_never_measured_expert_is_never_preferred(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    scores = table.scores.copy()
    scores[:, 2] = np.nan
    fitted = SCORERS[name].fit(replace(table, scores=scores), encoder).score(ASKED)
    assert np.isfinite(fitted).all()
    assert (fitted.argmax(axis=1) != 2).all()


def test_explanation_names_the_expert_it_chooses(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    scorer = SCORERS[name].fit(table, encoder)
    chosen = scorer.score(ASKED).argmax(axis=1)
    assert isinstance(scorer, Explainer)
    for query, best in zip(ASKED, chosen, strict=True):
        assert table.expert_ids[best] in " ".join(scorer.explain(query))


def test_a_single_query_and_expert_suffice(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    if name == "pilots":
        pytest.skip("pilots need two experts that differ; see test_pilots")
    one = table.rows(np.array([0])).for_experts(["calc"])
    assert np.isfinite(SCORERS[name].fit(one, encoder).score(ASKED)).all()


def test_artifact_of_another_pool_is_refused(
    name: str, table: OutcomeTable, encoder: Encoder
) -> None:
    artifact = SCORERS[name].fit(table, encoder).artifact()
    with pytest.raises(PoolMismatch, match="coe fit"):
        artifact.check(("calc", "chem", "geo"), encoder.name)


def test_damaged_artifact_is_a_config_error(
    name: str, table: OutcomeTable, encoder: Encoder, tmp_path: Path
) -> None:
    SCORERS[name].fit(table, encoder).artifact().save(tmp_path / "a")
    (tmp_path / "a" / "arrays.npz").write_bytes(b"not an archive")
    with pytest.raises(ConfigError, match="damaged"):
        Artifact.load(tmp_path / "a")
