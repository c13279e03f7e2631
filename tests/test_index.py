from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.index import NearestNeighbors

Rows = NDArray[np.float32]


def _unit(rng: np.random.Generator, n: int, dim: int) -> Rows:
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    n_distinct=st.integers(1, 60),
    n_queries=st.integers(1, 30),
    k=st.integers(1, 70),
)
@settings(max_examples=80, deadline=None)
def test_search_agrees_with_brute_force(
    seed: int, n: int, n_distinct: int, n_queries: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct rows make many exact ties, which must go to the lower index.
    vectors = _unit(rng, n_distinct, 8)[rng.integers(0, n_distinct, n)]
    queries = _unit(rng, n_queries, 8)
    similarities, indices = NearestNeighbors(vectors).search(queries, k)
    assert similarities.shape == indices.shape == (n_queries, min(k, n))
    for query, row, found in zip(queries, similarities, indices, strict=True):
        exact = np.einsum("nd,d->n", vectors, query)
        assert found.tolist() == sorted(range(n), key=lambda i: (-exact[i], i))[: min(k, n)]
        np.testing.assert_allclose(row, exact[found], rtol=1e-6)


def test_search_gives_ties_to_the_lower_index_beyond_what_faiss_fetched() -> None:
    vectors = np.tile(_unit(np.random.default_rng(0), 1, 16), (500, 1))
    for n_queries in (1, 40):
        _, indices = NearestNeighbors(vectors).search(vectors[:n_queries], 3)
        assert indices.tolist() == [[0, 1, 2]] * n_queries


def test_search_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(1)
    index = NearestNeighbors(_unit(rng, 300, 24))
    queries = _unit(rng, 50, 24)
    similarities, indices = index.search(queries, 7)
    for i in range(len(queries)):
        alone = index.search(queries[i : i + 1], 7)
        assert np.array_equal(alone[0][0], similarities[i])
        assert np.array_equal(alone[1][0], indices[i])


def test_search_accepts_float64_and_strided_rows() -> None:
    rng = np.random.default_rng(2)
    wide = _unit(rng, 40, 8).astype(np.float64)
    index = NearestNeighbors(wide[::2])
    assert len(index) == 20
    assert index.search(wide[::2], 1)[1].ravel().tolist() == list(range(20))


def test_search_of_no_queries_gives_no_rows() -> None:
    index = NearestNeighbors(np.eye(3, dtype=np.float32))
    similarities, indices = index.search(np.empty((0, 3), dtype=np.float32), 2)
    assert similarities.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_index_refuses_vectors_of_no_use(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="needs"):
        NearestNeighbors(np.empty(shape, dtype=np.float32))


def test_search_refuses_queries_of_another_encoder() -> None:
    index = NearestNeighbors(np.eye(3, dtype=np.float32))
    with pytest.raises(DatasetError, match="3 dimensions"):
        index.search(np.ones((1, 4), dtype=np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(np.ones((1, 3), dtype=np.float32), 0)
