from __future__ import annotations

import os
import subprocess
import sys

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


def _exact(vectors: Rows, queries: Rows) -> list[list[int]]:
    """(n_queries, n) inner products in whole numbers, where nothing is rounded."""
    scale = 2**26
    whole = [[round(float(x) * scale) for x in row] for row in vectors]
    asked = [[round(float(x) * scale) for x in row] for row in queries]
    return [[sum(a * b for a, b in zip(q, v, strict=True)) for v in whole] for q in asked]


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
    for exact, row, found in zip(_exact(vectors, queries), similarities, indices, strict=True):
        assert found.tolist() == sorted(range(n), key=lambda i: (-exact[i], i))[: min(k, n)]
        np.testing.assert_allclose(row, [exact[i] / 2**52 for i in found], rtol=1e-6, atol=1e-9)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 400),
    n_distinct=st.integers(1, 400),
    n_queries=st.integers(1, 60),
    k=st.integers(1, 120),
)
@settings(max_examples=60, deadline=None)
def test_search_is_the_same_alone_in_a_batch_and_in_any_order(
    seed: int, n: int, n_distinct: int, n_queries: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    distinct = _unit(rng, n_distinct, 24)
    index = NearestNeighbors(distinct[rng.integers(0, n_distinct, n)])
    # Queries that are rows of the index tie with all their copies.
    queries = np.concatenate([_unit(rng, n_queries, 24), distinct[:8]])
    similarities, indices = index.search(queries, k)
    order = rng.permutation(len(queries))
    shuffled = index.search(queries[order], k)
    assert np.array_equal(shuffled[0], similarities[order])
    assert np.array_equal(shuffled[1], indices[order])
    cut = int(rng.integers(0, len(queries)))
    for part in (slice(0, 1), slice(0, cut), slice(cut, None)):
        found = index.search(queries[part], k)
        assert np.array_equal(found[0], similarities[part])
        assert np.array_equal(found[1], indices[part])


def test_search_is_the_same_on_one_thread_and_on_many() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from coe.index import NearestNeighbors\n"
        "rng = np.random.default_rng(3)\n"
        "rows = rng.normal(size=(1500, 64)).astype(np.float32)\n"
        "rows /= np.linalg.norm(rows, axis=1, keepdims=True)\n"
        "index = NearestNeighbors(rows[:1000])\n"
        "found = [array.tobytes() for k in (5, 300) for array in index.search(rows, k)]\n"
        "print(hashlib.sha256(b''.join(found)).hexdigest())\n"
    )
    told = set()
    for n_threads in ("1", "4"):
        limits = {"OMP_NUM_THREADS": n_threads, "OPENBLAS_NUM_THREADS": n_threads}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **limits},
            capture_output=True,
            text=True,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_search_gives_ties_to_the_lower_index_beyond_what_faiss_fetched() -> None:
    vectors = np.tile(_unit(np.random.default_rng(0), 1, 16), (500, 1))
    for n_queries in (1, 40):
        _, indices = NearestNeighbors(vectors).search(vectors[:n_queries], 3)
        assert indices.tolist() == [[0, 1, 2]] * n_queries


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


def test_index_refuses_vectors_that_are_not_of_length_one() -> None:
    with pytest.raises(DatasetError, match="unit vectors"):
        NearestNeighbors(np.ones((2, 3), dtype=np.float32))


def test_search_refuses_queries_of_another_encoder() -> None:
    index = NearestNeighbors(np.eye(3, dtype=np.float32))
    with pytest.raises(DatasetError, match="3 dimensions"):
        index.search(np.ones((1, 4), dtype=np.float32), 1)
    with pytest.raises(DatasetError, match="unit vectors"):
        index.search(np.full((1, 3), np.nan, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(np.ones((1, 3), dtype=np.float32), 0)
