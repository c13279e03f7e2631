"""What `coe fit` makes: a fitted scorer, and what its policy and aggregator need besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from coe.assembly.annotating import fitting_kind
from coe.assembly.bounding import CATEGORIES
from coe.assembly.engines import encoder_for
from coe.assembly.scorers import fit_scorer, fitted_scorer
from coe.assembly.serving import spec_for
from coe.config import Config
from coe.encoders import default_encoder
from coe.errors import DatasetError
from coe.experts import ExpertPool
from coe.outcomes import BoolArray, FloatArray, OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.calibrated import calibration_artifact, reads_probabilities
from coe.routers.calibration import Calibration, Method
from coe.routers.category import CategoryScorer
from coe.routers.policies import PolicySpec, TopK
from coe.routers.policies.guard import held_out_as_asked
from coe.routers.policies.tuning import VoteKind, fitted_vote, tuned
from coe.routers.remembered import KnownTexts
from coe.routing import Encoder, Router, Scorer

_VOTES: Mapping[str, VoteKind] = {"learned": "learned", "weighted": "independent"}


def fit_router(table: OutcomeTable, pool: ExpertPool, scorer: str = "knn") -> Router:
    """A top-1 router with the default encoder, fitted on the pool's columns of the table."""
    fitted = fit_scorer(scorer, table.for_experts(pool.ids), default_encoder())
    return Router(fitted, TopK(1), pool)


def fit_artifact(config: Config, table: OutcomeTable) -> Artifact:
    """What `load_router` reads, of the pool's columns of the table."""
    return Fitting(config, table).artifact()


class Fitting:
    """One fit of a configured router. Nothing is fitted before it is asked for."""

    def __init__(
        self,
        config: Config,
        table: OutcomeTable,
        annotator: str | None = None,
        annotations: Path | None = None,
    ) -> None:
        """`annotator`: the expert that names skills for `symbolic`, kept in `annotations`.

        Raises `DatasetError` if an expert of the pool was never asked.
        """
        _check_measured(config, table)
        self.config = config
        self.table = table.for_experts(config.pool.ids)
        self.spec = spec_for(config)
        self._kind = fitting_kind(config, annotator, annotations)
        texts = [query.text for query in table.queries]
        self._encoder = KnownTexts(encoder_for(config.encoder), texts)

    @cached_property
    def held_out(self) -> FloatArray:
        """(n_queries, n_experts) scores from five more fits, of queries asked as live ones are."""
        return self._held_out(np.ones(self.table.n_queries, dtype=bool))

    def held_out_without(self, left_out: BoolArray) -> FloatArray:
        """The same, had the rows left out never been there to fit on."""
        return self._held_out(~left_out)

    @cached_property
    def held_out_as_served(self) -> FloatArray:
        """`held_out`, as probabilities where the served router's scores are."""
        return self._calibration.probabilities(self.held_out)

    @property
    def needs_held_out(self) -> bool:
        """Whether the policy or the aggregator reads scores as probabilities."""
        return reads_probabilities(self.spec, self._aggregator)

    def artifact(self) -> Artifact:
        """The scorer, and as parts a calibration, the learned vote and the policy's numbers.

        These are there where they are needed, and fitted on `held_out`. Bounds by category are
        a part, too, and fitted on the whole table.
        """
        artifact = fitted_scorer(self._kind, self.table, self._encoder).artifact()
        if self.config.router.allowed:
            categories = CategoryScorer.fit(self.table, self._encoder).artifact()
            artifact = replace(artifact, parts={**artifact.parts, CATEGORIES: categories})
        if not self.needs_held_out:
            return artifact
        chances = self.held_out_as_served
        parts = {"calibration": calibration_artifact(self._calibration, artifact.manifest)}
        vote = _VOTES.get(self._aggregator, "majority")
        found = tuned(self.spec, self.table, chances, self.config.pool, vote)
        if self._aggregator == "learned":
            pool = self.config.pool
            parts["vote"] = fitted_vote(found, self.table, chances, pool).artifact()
        if not self.spec.is_tuned:
            parts["policy"] = self._policy_artifact(found)
        return replace(artifact, parts={**artifact.parts, **parts})

    @cached_property
    def _calibration(self) -> Calibration:
        method: Method = "platt" if self.needs_held_out else "none"
        return Calibration.fit(method, self.held_out, self.table.scores)

    @property
    def _aggregator(self) -> str:
        return self.config.router.aggregator.kind

    def _held_out(self, may_fit_on: BoolArray) -> FloatArray:
        kept = {q.id for q, is_kept in zip(self.table.queries, may_fit_on, strict=True) if is_kept}

        def fit_one(table: OutcomeTable, encoder: Encoder) -> Scorer:
            rows = np.array([query.id in kept for query in table.queries], dtype=bool)
            return fitted_scorer(self._kind, table.rows(rows), encoder)

        return held_out_as_asked(fit_one, self.table, self._encoder)

    def _policy_artifact(self, found: PolicySpec) -> Artifact:
        settings = {"given": str(self.spec), "tuned": str(found)}
        table = self.table
        return Artifact(
            Manifest("policy", table.expert_ids, table.digest(), table.n_queries, settings=settings)
        )


def _check_measured(config: Config, table: OutcomeTable) -> None:
    for expert_id in config.pool.ids:
        if expert_id not in table.expert_ids:
            raise DatasetError(
                f"the outcomes hold no answers of expert {expert_id!r}; record them with `coe eval "
                f"zoo -c {config.file} --split all --record FILE`, then `coe fit -c {config.file} "
                "--outcomes FILE`"
            )
