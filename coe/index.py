"""Nearest neighbours among the vectors of a fitted router: exact search.

Flat on purpose: up to some ten thousand rows an approximate index saves nothing.

Similarities are computed without any rounding, so that they do not depend on the batch, on the
number of threads or on the BLAS at hand. Coordinates are rounded to multiples of 2**-26 first:
then products of two are multiples of 2**-52, and so is every partial sum, which for unit vectors
stays below 2 and therefore fits a double exactly, in whatever order it is added up.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
Keys = NDArray[np.int64]

_GRID = 2.0**26
_LONGEST_SQUARED = 1.9
"""Exactness needs that two lengths multiply to less than 2."""
_SLACK_ROWS = 8
_SLACK_SIMILARITY = 1e-5
"""More than faiss, which rounds, is off by on unit vectors."""
_BLOCK_CELLS = 2**20
_FEW_QUERIES = 16
_FEW_ROWS = 32
"""A k below one in so many rows is few: looking candidates over costs less than all rows."""


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
        self._vectors = _on_grid(vectors, "the vectors of a nearest-neighbour index")
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)
        self._index_bits = (len(vectors) - 1).bit_length()

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
        asked = _on_grid(queries, "the queries")
        is_cheap = len(asked) < _FEW_QUERIES or k < len(self) // _FEW_ROWS
        return self._told(self._among_candidates(asked, k) if is_cheap else self._all(asked, k))

    def _all(self, queries: FloatArray, k: int) -> Keys:
        """(n_queries, k) keys, best first, from the similarities to all rows."""
        vectors = self._vectors.astype(np.float64).T
        indices = np.arange(len(self))
        best = np.empty((len(queries), k), dtype=np.int64)
        n_rows = max(1, _BLOCK_CELLS // len(self))
        for start in range(0, len(queries), n_rows):
            block = queries[start : start + n_rows].astype(np.float64)
            keys = self._keys(block @ vectors, indices)
            keys.partition(len(self) - k, axis=1)
            best[start : start + n_rows] = np.sort(keys[:, -k:], axis=1)[:, ::-1]
        return best

    def _among_candidates(self, queries: FloatArray, k: int) -> Keys:
        """The same keys, from the similarities to the rows that faiss takes for the nearest."""
        n_candidates = min(len(self), k + _SLACK_ROWS)
        rough, candidates = self._candidates(queries, n_candidates)
        best = np.empty((len(queries), k), dtype=np.int64)
        for i, query in enumerate(queries):
            chosen = candidates[i]
            if n_candidates < len(self) and rough[i, k - 1] - rough[i, -1] <= _SLACK_SIMILARITY:
                # More rows may tie with the last place than were fetched: look at all of them.
                chosen = np.arange(len(self))
            similarities = self._vectors[chosen].astype(np.float64) @ query.astype(np.float64)
            best[i] = np.sort(self._keys(similarities, chosen))[: -k - 1 : -1]
        return best

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

    def _keys(self, similarities: FloatArray, indices: IntArray) -> Keys:
        """One number for similarity and index: no two are equal, and the better is the larger."""
        keys = (similarities * self._key_scale).astype(np.int64)
        keys <<= self._index_bits
        keys |= len(self) - 1 - indices
        return keys

    def _told(self, keys: Keys) -> tuple[FloatArray, IntArray]:
        mask = (1 << self._index_bits) - 1
        similarities = (keys >> self._index_bits) / self._key_scale
        return similarities.astype(np.float32), len(self) - 1 - (keys & mask)

    @property
    def _key_scale(self) -> float:
        return 2.0 ** (62 - self._index_bits)


def _on_grid(rows: FloatArray, what: str) -> FloatArray:
    """The rows with coordinates that are multiples of 2**-26, which float32 holds exactly."""
    wide = rows.astype(np.float64)
    if not (np.einsum("nd,nd->n", wide, wide) < _LONGEST_SQUARED).all():
        raise DatasetError(f"{what} must be unit vectors; normalise them")
    return np.ascontiguousarray(np.rint(wide * _GRID) / _GRID, dtype=np.float32)
