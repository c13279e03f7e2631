"""Symbolic-MoE: an expert is expected to do as its record says on the skills a query needs.

"Symbolic Mixture-of-Experts: Adaptive Skill-based Routing for Heterogeneous Reasoning" (arXiv
2503.05641, section 3; renamed Skill-MoE in v4). An annotator names the skills, the arithmetic
of records and probabilities is in `symbolic_relevance`, drawing and trimming experts in
`symbolic_recruitment`, the choice of an aggregator in `symbolic_aggregation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, PoolMismatch
from coe.index import NearestNeighbors
from coe.outcomes import OutcomeTable
from coe.routers.annotators import Annotator, Skills
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.symbolic_keywords import keyword_expert
from coe.routers.symbolic_phrases import PhraseAnnotator
from coe.routers.symbolic_relevance import (
    FORMS,
    TEMPERATURE,
    Form,
    competency,
    probabilities,
    skill_records,
)
from coe.routing import Encoder, FloatArray
from coe.types import Query

_ANNOTATOR = "annotator_"


class SymbolicScorer:
    """The probability of recruiting each expert, from its record on the query's skills.

    Where no skill is known all experts are equally probable. An open annotator's skills that
    are not on record stand for the most similar one that is, however little similar (so the
    authors), and two that meet in one count twice; skills without any known token are dropped.
    """

    name = "symbolic"

    def __init__(
        self, artifact: Artifact, encoder: Encoder, annotator: Annotator | None = None
    ) -> None:
        """`annotator` must be the one fitted with; None restores one kept in the artifact."""
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        settings = artifact.manifest.settings
        self._artifact = artifact
        self._encoder = encoder
        self._annotator = annotator or _restored(artifact, encoder)
        if self._annotator.name != settings["annotator"]:
            raise _mismatch(artifact, self._annotator.name)
        self.expert_ids = artifact.manifest.expert_ids
        self.skills: tuple[str, ...] = tuple(settings["skills"])
        self.form: Form = settings["form"]
        self.temperature = float(settings["temperature"])
        self._row_of = {skill: i for i, skill in enumerate(self.skills)}
        self._records = artifact.arrays["records"].astype(np.float64)
        self._competency = competency(self._records.sum(axis=0), self.form, self.temperature)
        vectors = artifact.arrays.get("skill_vectors")
        self._index = None if vectors is None else NearestNeighbors(vectors.astype(np.float32))

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        annotator: Annotator | None = None,
        form: Form = "code",
        temperature: float = TEMPERATURE,
    ) -> SymbolicScorer:
        """`annotator` None fits a `PhraseAnnotator` on the table's queries."""
        if form not in FORMS:
            raise ConfigError(f"unknown form {form!r}; use {' or '.join(FORMS)}", key="form")
        if not temperature > 0:
            raise ConfigError(f"must be above 0, got {temperature}", key="temperature")
        asked = annotator or PhraseAnnotator.fit(table.queries, encoder)
        needed = asked.annotate(table.queries)
        skills = sorted({skill for of_query in needed for skill in of_query})
        if not skills:
            raise DatasetError(
                f"annotator {asked.name!r} found no skill in {table.n_queries} queries; "
                "name their categories, fit on more of them, or use another annotator"
            )
        arrays: dict[str, NDArray[Any]] = {
            "records": skill_records(table.scores, needed, skills).astype(np.float32)
        }
        settings: dict[str, Any] = {
            "form": form,
            "temperature": temperature,
            "annotator": asked.name,
            "skills": skills,
        }
        if asked.is_open:
            arrays["skill_vectors"] = encoder.encode(skills).astype(np.float16)
        if isinstance(asked, PhraseAnnotator):
            settings["annotator_settings"] = asked.settings
            arrays |= {f"{_ANNOTATOR}{key}": array for key, array in asked.arrays.items()}
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        return cls(Artifact(manifest, arrays), encoder, asked)

    def artifact(self) -> Artifact:
        return self._artifact

    @property
    def asked_expert(self) -> str | None:
        """The expert that is asked for keywords before each score; None if nobody is."""
        return keyword_expert(self._artifact.manifest)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        rows = self._record_rows(self._annotator.annotate(queries))
        suitability = np.zeros((len(queries), len(self.expert_ids)))
        for i, of_query in enumerate(rows):
            suitability[i] = self._records[of_query].sum(axis=0)
        drawn = probabilities(suitability, self._competency, self.form, self.temperature)
        drawn[[not of_query for of_query in rows]] = 1.0 / len(self.expert_ids)
        return drawn

    def explain(self, query: Query) -> tuple[str, ...]:
        (needed,) = self._annotator.annotate([query])
        (rows,) = self._record_rows([needed])
        drawn = self.score([query])[0]
        best = int(np.argmax(drawn))
        if not rows:
            return (f"no known skill, so {self.expert_ids[best]} is as probable as any",)
        skills = ", ".join(self.skills[row] for row in rows)
        record = self._records[rows].sum(axis=0)[best]
        return (
            f"needs {skills}, where {self.expert_ids[best]} has {record:+.0f} right over wrong "
            f"and {self._competency[best]:.0%} of the pool's competency",
        )

    def _record_rows(self, needed: Sequence[Skills]) -> list[list[int]]:
        """The record of each skill of each query, most similar ones standing in."""
        unseen = sorted({s for of_query in needed for s in of_query if s not in self._row_of})
        stands_for: dict[str, int] = {}
        if unseen and self._index is not None:
            vectors = self._encoder.encode(unseen)
            _, nearest = self._index.search(vectors, 1)
            pairs = zip(unseen, vectors, nearest[:, 0].tolist(), strict=True)
            stands_for = {skill: row for skill, vector, row in pairs if vector.any()}
        row_of = self._row_of | stands_for if stands_for else self._row_of
        return [[row_of[s] for s in of_query if s in row_of] for of_query in needed]


def _restored(artifact: Artifact, encoder: Encoder) -> Annotator:
    settings = artifact.manifest.settings
    if settings["annotator"] != PhraseAnnotator.name:
        raise _mismatch(artifact, "none")
    arrays = {
        key.removeprefix(_ANNOTATOR): array
        for key, array in artifact.arrays.items()
        if key.startswith(_ANNOTATOR)
    }
    return PhraseAnnotator(settings["annotator_settings"], arrays, encoder)


def _mismatch(artifact: Artifact, given: str) -> PoolMismatch:
    expert_id = keyword_expert(artifact.manifest)
    passed = "the annotator it was fitted with"
    if expert_id is not None:
        passed = f"a `serving_annotator` that asks expert {expert_id!r}"
    return PoolMismatch(
        f"router {artifact.manifest.scorer!r}, annotator",
        artifact.manifest.settings["annotator"],
        given,
        f"pass {passed}, or fit it again with `coe fit`",
    )
