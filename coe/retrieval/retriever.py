"""RouterRetriever: routes each query to one domain's expert and searches that expert's index.

Documents and queries are encoded once by the base; an expert is an adapter on those vectors, with
a faiss index of its own that is built when it is first asked. Adding or removing a domain leaves
the adapters and indexes of the others as they are, the very same objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, PoolMismatch, UnknownExpert
from coe.index import NearestNeighbors
from coe.outcomes import OutcomeTable
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Document, whole_texts
from coe.routing import Encoder, Scorer
from coe.types import Query

FloatArray = NDArray[np.floating]


class DomainScorer(Scorer, Protocol):
    """A scorer that gains and loses experts without being fitted again, as pilots do."""

    def with_expert(self, expert_id: str, table: OutcomeTable) -> Self: ...

    def without_expert(self, expert_id: str) -> Self: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found, and who searched."""

    expert_id: str
    document_ids: tuple[str, ...]
    """Best first."""
    similarities: tuple[float, ...]


class Library:
    """Documents as the base encoder sees them, and as each expert that was asked does."""

    def __init__(
        self, documents: Sequence[Document], base: Encoder, vectors: FloatArray | None = None
    ) -> None:
        """`vectors`: the documents' from the base encoder, where they were made already."""
        if not documents:
            raise DatasetError("there are no documents to search; give at least one")
        self.ids = tuple(document.id for document in documents)
        self.vectors = base.encode(whole_texts(documents)) if vectors is None else vectors
        if self.vectors.shape != (len(documents), base.dim):
            raise DatasetError(
                f"{len(documents)} documents came with vectors of shape {self.vectors.shape}; "
                f"encode them with {base.name!r}"
            )


class ExpertIndex:
    """One expert's own faiss index of a library."""

    def __init__(self, adapter: LinearAdapter, library: Library) -> None:
        self._adapter = adapter
        self._ids = library.ids
        self._neighbors = NearestNeighbors(adapter(library.vectors))

    def search(self, queries: FloatArray, k: int) -> list[list[tuple[str, float]]]:
        """The k nearest documents of each of the base encoder's vectors, with similarities.

        Best first; equal similarities in descending order of the id, as trec_eval has them.
        """
        near = self._neighbors.search(self._adapter(queries), k)
        hits = [
            [(self._ids[row], float(s)) for row, s in zip(rows, similarities, strict=True)]
            for similarities, rows in zip(*near, strict=True)
        ]
        return [sorted(hit, key=lambda pair: (pair[1], pair[0]), reverse=True) for hit in hits]


class RouterRetriever:
    """A base encoder, an adapter for each domain, the scorer that routes, and a library."""

    def __init__(
        self,
        base: Encoder,
        adapters: Mapping[str, LinearAdapter],
        scorer: DomainScorer,
        library: Library,
        indexes: Mapping[str, ExpertIndex] | None = None,
    ) -> None:
        """`indexes`: those of experts that were asked before."""
        if set(scorer.expert_ids) != set(adapters):
            raise PoolMismatch(
                f"scorer {scorer.name!r}",
                ", ".join(sorted(scorer.expert_ids)),
                ", ".join(sorted(adapters)),
                "give an adapter for each expert it knows",
            )
        for adapter in adapters.values():
            if adapter.base != base.name:
                raise PoolMismatch("adapter, encoder", adapter.base, base.name, "train it again")
        self.base = base
        self.adapters = dict(adapters)
        self.scorer = scorer
        self.library = library
        self._indexes = dict(indexes or {})

    @property
    def expert_ids(self) -> tuple[str, ...]:
        return self.scorer.expert_ids

    def route(self, queries: Sequence[Query | str]) -> list[str]:
        """The expert of each query; the earlier one of equals."""
        if not queries:
            return []
        scores = self.scorer.score([Query.of(query) for query in queries])
        return [self.expert_ids[column] for column in scores.argmax(axis=1)]

    def search(
        self, queries: Sequence[Query | str], k: int = 10, expert_id: str | None = None
    ) -> list[Found]:
        """The k nearest documents of each query; `expert_id` names one and skips the router."""
        experts = self.route(queries) if expert_id is None else [expert_id] * len(queries)
        if not queries:
            return []
        vectors = self.base.encode([Query.of(query).text for query in queries])
        found: dict[int, Found] = {}
        for asked in dict.fromkeys(experts):
            rows = [row for row, expert in enumerate(experts) if expert == asked]
            for row, hits in zip(rows, self.index(asked).search(vectors[rows], k), strict=True):
                found[row] = Found(asked, tuple(i for i, _ in hits), tuple(s for _, s in hits))
        return [found[row] for row in range(len(queries))]

    def index(self, expert_id: str) -> ExpertIndex:
        """The expert's own index, built when it is first asked for."""
        if expert_id not in self.adapters:
            raise UnknownExpert(expert_id, self.adapters)
        if expert_id not in self._indexes:
            self._indexes[expert_id] = ExpertIndex(self.adapters[expert_id], self.library)
        return self._indexes[expert_id]

    def with_domain(
        self, expert_id: str, adapter: LinearAdapter, table: OutcomeTable
    ) -> RouterRetriever:
        """One domain more. The table scores the newcomer beside all present experts."""
        if expert_id in self.adapters:
            raise ConfigError(f"{expert_id!r} is an expert already; remove it or name another")
        scorer = self.scorer.with_expert(expert_id, table)
        adapters = {**self.adapters, expert_id: adapter}
        return RouterRetriever(self.base, adapters, scorer, self.library, self._indexes)

    def without_domain(self, expert_id: str) -> RouterRetriever:
        """One domain fewer."""
        scorer = self.scorer.without_expert(expert_id)
        adapters = {id_: a for id_, a in self.adapters.items() if id_ != expert_id}
        indexes = {id_: index for id_, index in self._indexes.items() if id_ != expert_id}
        return RouterRetriever(self.base, adapters, scorer, self.library, indexes)
