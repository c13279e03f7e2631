"""What each expert scored on each query: the one table that every fit and metric reads.

Language experts are scored by correctness or a judge's grade, retrieval experts by nDCG@10;
nothing here knows which. Reading and writing files is decided in `coe.eval.datasets`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError, UnknownExpert
from coe.types import Query

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeTable:
    """Scores of a pool on a set of queries. NaN means not measured, never wrong."""

    queries: tuple[Query, ...]
    expert_ids: tuple[str, ...]
    scores: FloatArray
    """(n_queries, n_experts), in [0, 1] or NaN."""
    answers: tuple[tuple[str | None, ...], ...] | None = None
    """What each expert answered, as rows of (n_queries, n_experts); None in a cell means that
    no answer could be read. None for the table means that only scores were kept."""
    cost_usd: FloatArray | None = None
    """(n_queries, n_experts) price of each answer; NaN where it is not known."""
    vectors: FloatArray | None = field(default=None, repr=False)
    """(n_queries, dim) embeddings that came with the data."""
    vectors_name: str | None = None
    """Name of the encoder that made `vectors`."""

    def __post_init__(self) -> None:
        shape = (len(self.queries), len(self.expert_ids))
        for name in ("scores", "cost_usd"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise DatasetError(f"{name} has shape {array.shape}, the table has {shape}")
        if self.vectors is not None and len(self.vectors) != shape[0]:
            raise DatasetError(f"{len(self.vectors)} vectors for {shape[0]} queries")
        if len(set(self.expert_ids)) != len(self.expert_ids):
            raise DatasetError(f"an expert occurs twice in {self.expert_ids}")

    @property
    def n_queries(self) -> int:
        return len(self.queries)

    @property
    def categories(self) -> tuple[str, ...]:
        """The distinct known categories, sorted."""
        return tuple(sorted({q.category for q in self.queries if q.category is not None}))

    def column(self, expert_id: str) -> FloatArray:
        """(n_queries,) scores of one expert."""
        return self.scores[:, self._index(expert_id)]

    def means(self) -> FloatArray:
        """(n_experts,) mean score where measured; NaN for an expert that never was."""
        measured = ~np.isnan(self.scores)
        counts = measured.sum(axis=0)
        sums = np.where(measured, self.scores, 0.0).sum(axis=0)
        means: FloatArray = np.full(len(counts), np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means

    def best_single(self) -> str:
        """The expert with the best mean; the earliest of equals."""
        means = self.means()
        if np.isnan(means).all():
            raise DatasetError("no expert of this table was ever measured")
        return self.expert_ids[int(np.nanargmax(means))]

    def for_experts(self, expert_ids: Sequence[str]) -> OutcomeTable:
        """The columns of the named experts, in the order named."""
        columns = [self._index(expert_id) for expert_id in expert_ids]
        answers = self.answers and tuple(tuple(row[c] for c in columns) for row in self.answers)
        return replace(
            self,
            expert_ids=tuple(expert_ids),
            scores=self.scores[:, columns],
            answers=answers,
            cost_usd=None if self.cost_usd is None else self.cost_usd[:, columns],
        )

    def rows(self, selected: BoolArray | IntArray) -> OutcomeTable:
        """The selected queries, by mask or by index."""
        indices = np.arange(self.n_queries)[selected]
        return replace(
            self,
            queries=tuple(self.queries[i] for i in indices),
            scores=self.scores[indices],
            answers=self.answers and tuple(self.answers[i] for i in indices),
            cost_usd=None if self.cost_usd is None else self.cost_usd[indices],
            vectors=None if self.vectors is None else self.vectors[indices],
        )

    def without_categories(self) -> OutcomeTable:
        """The same outcomes of queries whose category nobody tells."""
        return replace(self, queries=tuple(replace(q, category=None) for q in self.queries))

    def digest(self) -> str:
        """A short name for this exact data, recorded in whatever is fitted on it."""
        hasher = hashlib.sha256()
        hasher.update("\x1f".join(self.expert_ids).encode())
        for query in self.queries:
            hasher.update(f"\x1e{query.id}\x1f{query.category}\x1f{query.text}".encode())
        hasher.update(repr(self.answers).encode())
        for array in (self.scores, self.cost_usd):
            if array is not None:
                hasher.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return hasher.hexdigest()[:16]

    def _index(self, expert_id: str) -> int:
        if expert_id not in self.expert_ids:
            raise UnknownExpert(expert_id, self.expert_ids)
        return self.expert_ids.index(expert_id)
