"""k nearest neighbours: an expert is expected to do as it did on the most similar queries.

A tuned kNN matches or beats learned routers on the public benchmarks ("Rethinking Predictive
Modeling for LLM Routing: When Simple kNN Beats Complex Learned Routers", arXiv 2505.12601).
k is chosen by cross-validation on the fit data when it is not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.index import NearestNeighbors
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routing import Encoder, FloatArray
from coe.types import Query

K_GRID = (5, 10, 20, 40, 80, 160, 320, 640)
_FOLDS = 5

_AT_ONCE = 64


class NeighborsScorer:
    """Mean outcome of the k most similar fitted queries, by cosine."""

    name = "knn"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.k = int(artifact.manifest.settings["k"])
        self._record = _Record(artifact.arrays["outcomes"])
        self._index = NearestNeighbors(artifact.arrays["vectors"].astype(np.float32))

    @classmethod
    def fit(
        cls, table: OutcomeTable, encoder: Encoder, k: int | None = None, seed: int = 0
    ) -> NeighborsScorer:
        """`k` None chooses it from `K_GRID` by 5-fold cross-validation of top-1 routing."""
        if table.n_queries == 0:
            raise DatasetError("kNN needs at least one query to be fitted on")
        vectors = encoder.encode([query.text for query in table.queries]).astype(np.float32)
        outcomes = table.scores.astype(np.float32)
        chosen = k if k is not None else _cross_validated_k(vectors, outcomes, seed)
        manifest = Manifest(
            cls.name,
            table.expert_ids,
            table.digest(),
            table.n_queries,
            encoder.name,
            {"k": min(chosen, table.n_queries), "k_given": k is not None, "seed": seed},
        )
        # Half precision halves the file; a cosine moves by less than 0.001.
        arrays: dict[str, NDArray[Any]] = {
            "vectors": vectors.astype(np.float16),
            "outcomes": outcomes,
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        _, neighbors = self._index.search(vectors, self.k)
        scores = self._record.means_over(neighbors)
        # A text without a known word is near to nothing: only the overall record says anything.
        scores[~vectors.any(axis=1)] = self._record.means
        return scores

    def explain(self, query: Query) -> tuple[str, ...]:
        vectors = self._encoder.encode([query.text])
        if not vectors.any():
            best = int(np.argmax(self._record.means))
            return (f"no known word in it; {self.expert_ids[best]} is best on average",)
        similarities, neighbors = self._index.search(vectors, self.k)
        rates = self._record.means_over(neighbors)[0]
        best = int(np.argmax(rates))
        return (
            f"on the {self.k} most similar of {len(self._index)} known queries (cosine "
            f"{similarities[0, -1]:.2f} to {similarities[0, 0]:.2f}) "
            f"{self.expert_ids[best]} scored {rates[best]:.0%}",
        )


class _Record:
    """What each expert scored on the fitted queries, laid out once to be averaged many times."""

    def __init__(self, outcomes: FloatArray) -> None:
        measured = ~np.isnan(outcomes)
        filled = np.where(measured, outcomes, 0.0)
        means: FloatArray = filled.sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
        self.means = means
        """(n_experts,) over all queries where measured, 0 for an expert that never was."""
        self._sums_and_counts = np.concatenate([filled, measured], axis=1, dtype=np.float64)

    def means_over(self, neighbors: NDArray[np.integer]) -> FloatArray:
        """(n_queries, n_experts) over neighbours where measured, over all where none was."""
        n = len(self.means)
        mixed = np.empty((len(neighbors), n))
        # A few queries at a time: what is gathered for all of them may not fit in memory.
        for start in range(0, len(neighbors), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            near = self._sums_and_counts[neighbors[rows]].sum(axis=1)
            sums, counts = near[:, :n], near[:, n:]
            mixed[rows] = np.where(counts > 0, sums / np.maximum(counts, 1), self.means)
        return mixed


def _cross_validated_k(vectors: FloatArray, outcomes: FloatArray, seed: int) -> int:
    """The k of the grid whose routing scores best on held-out folds; the smallest of equals."""
    n = len(vectors)
    n_folds = min(_FOLDS, n)
    if n_folds < 2:
        return 1
    grid = [k for k in K_GRID if k <= n * (n_folds - 1) // n_folds] or [1]
    folds = np.random.default_rng(seed).permutation(n) % n_folds
    won, measured = np.zeros((2, len(grid)))
    for fold in range(n_folds):
        of_fold = _fold_scores(vectors, outcomes, folds == fold, grid)
        won += of_fold[0]
        measured += of_fold[1]
    return grid[int(np.argmax(won / np.maximum(measured, 1.0)))]


def _fold_scores(
    vectors: FloatArray, outcomes: FloatArray, held: NDArray[np.bool_], grid: Sequence[int]
) -> FloatArray:
    """(2, len(grid)) what routing with each k won on the held-out rows, and on how many.

    A choice that was not measured is no loss: it says nothing of k.
    """
    known, asked = outcomes[~held], outcomes[held]
    record = _Record(known)
    _, neighbors = NearestNeighbors(vectors[~held]).search(vectors[held], max(grid))
    of_grid = np.zeros((2, len(grid)))
    for i, k in enumerate(grid):
        chosen = record.means_over(neighbors[:, :k]).argmax(axis=1)
        outcome = asked[np.arange(len(asked)), chosen]
        of_grid[:, i] = np.nansum(outcome), (~np.isnan(outcome)).sum()
    return of_grid
