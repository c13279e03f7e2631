"""Nearest neighbours among the vectors of a fitted router: exact search with faiss.

Flat on purpose: up to some ten thousand rows an approximate index saves nothing.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

_SLACK_ROWS = 8
_SLACK_SIMILARITY = 1e-5
"""More than faiss and einsum differ by on unit vectors."""


class NearestNeighbors:
    """Finds the most similar of a fixed set of unit vectors, by inner product.

    Equal similarities go to the lower index, and a query's neighbours do not depend on what
    else is in its batch.
    """

    def __init__(self, vectors: FloatArray) -> None:
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise DatasetError(
                f"a nearest-neighbour index needs (n, dim) vectors, got shape {vectors.shape}"
            )
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """Similarities and indices, both (n_queries, k), best first; k is at most all rows."""
        if queries.ndim != 2 or queries.shape[1] != self._vectors.shape[1]:
            raise DatasetError(
                f"queries have shape {queries.shape}, the index holds vectors of "
                f"{self._vectors.shape[1]} dimensions"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, len(self))
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        n_candidates = min(len(self), k + _SLACK_ROWS)
        rough, candidates = self._candidates(asked, n_candidates)
        similarities = np.empty((len(asked), k), dtype=np.float32)
        indices = np.empty((len(asked), k), dtype=np.int64)
        for i, query in enumerate(asked):
            chosen = np.sort(candidates[i])
            if n_candidates < len(self) and rough[i, k - 1] - rough[i, -1] <= _SLACK_SIMILARITY:
                # More rows may tie with the last place than were fetched: look at all of them.
                chosen = np.arange(len(self))
            exact = np.einsum("nd,d->n", self._vectors[chosen], query)
            best = np.argsort(-exact, kind="stable")[:k]
            similarities[i], indices[i] = exact[best], chosen[best]
        return similarities, indices

    def _candidates(self, queries: FloatArray, n: int) -> tuple[FloatArray, IntArray]:
        if len(queries) == 1:
            # Waking a thread pool costs more than one query's scan. The setting belongs to
            # the calling thread.
            before = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)
            try:
                similarities, indices = self._index.search(queries, n)
            finally:
                faiss.omp_set_num_threads(before)
        else:
            similarities, indices = self._index.search(queries, n)
        return similarities, indices
