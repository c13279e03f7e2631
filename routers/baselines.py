"""The reference points that every router is measured against.

Random, best single and oracle bound what routing can do: a router below best single does harm,
and none gets above the oracle, which reads the outcomes (LLMRouterBench's reference routers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from coe.errors import RoutingError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routing import FloatArray
from coe.types import Query


class RandomScorer:
    """Uniform scores, the same for the same seed and query: pure, hence repeatable."""

    name = "random"

    def __init__(self, expert_ids: Sequence[str], seed: int = 0) -> None:
        self.expert_ids = tuple(expert_ids)
        self.seed = seed

    def score(self, queries: Sequence[Query]) -> FloatArray:
        scores = np.empty((len(queries), len(self.expert_ids)))
        for i, query in enumerate(queries):
            key = f"{self.seed}\x1f{query.id}\x1f{query.text}".encode()
            drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
            scores[i] = drawn.random(len(self.expert_ids))
        return scores


class BestSingleScorer:
    """Every query the same row: each expert's mean on the data it was fitted on."""

    name = "best-single"

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self.expert_ids = artifact.manifest.expert_ids
        self._means = artifact.arrays["means"]

    @classmethod
    def fit(cls, table: OutcomeTable) -> BestSingleScorer:
        """Raises `DatasetError` if no expert was ever measured."""
        table.best_single()
        manifest = Manifest(cls.name, table.expert_ids, table.digest(), table.n_queries)
        return cls(Artifact(manifest, {"means": np.nan_to_num(table.means())}))

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(self._means, (len(queries), 1))

    def explain(self, query: Query) -> tuple[str, ...]:
        n = self._artifact.manifest.n_queries
        best = self.expert_ids[int(np.argmax(self._means))]
        return (f"{best} is best on average over the {n} queries it was fitted on",)


class OracleScorer:
    """The outcomes themselves, looked up by query id. A bound to measure with, not a router."""

    name = "oracle"

    def __init__(self, table: OutcomeTable) -> None:
        self.expert_ids = table.expert_ids
        self._scores = np.nan_to_num(table.scores)
        self._rows = {query.id: i for i, query in enumerate(table.queries)}

    def score(self, queries: Sequence[Query]) -> FloatArray:
        try:
            rows = [self._rows[query.id] for query in queries]
        except KeyError as error:
            raise RoutingError(f"the oracle has no recorded outcome for query {error}") from None
        scores: FloatArray = self._scores[rows]
        return scores
