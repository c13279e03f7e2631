"""Which category a query belongs to: named by the caller, or voted by its most similar seeds.

The category router of Composition of Experts (arXiv 2412.01868): embeddings and a kNN vote, with
a semi-supervised step that labels queries of unknown category. Numbers of neighbours and the
least share of votes were not published; they are our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from coe.index import NearestNeighbors
from coe.routing import FloatArray
from coe.types import Query

IntArray = NDArray[np.integer]
VOTERS = 15
"""How many similar queries vote on an unnamed category."""
Guess = Callable[[IntArray], FloatArray]
"""Rows of the batch → (n_rows, n_categories) shares."""


class CategoryVotes:
    """Share of a query's most similar labelled queries that each category has."""

    def __init__(self, vectors: FloatArray, labels: IntArray, n_categories: int, k: int) -> None:
        """`labels` index the categories, one for each vector."""
        self._index = NearestNeighbors(vectors)
        self._labels = labels
        self._n_categories = n_categories
        self.k = k

    def shares(self, vectors: FloatArray) -> FloatArray:
        """(n_queries, n_categories), rows sum to 1."""
        _, neighbors = self._index.search(vectors, self.k)
        votes = self._labels[neighbors]  # (n_queries, k)
        rows = np.arange(len(votes))[:, None]
        counts = np.zeros((len(votes), self._n_categories))
        np.add.at(counts, (np.broadcast_to(rows, votes.shape), votes), 1.0)
        shares: FloatArray = counts / votes.shape[1]
        return shares


def category_labels(queries: Sequence[Query], categories: Sequence[str]) -> IntArray:
    """(n_queries,) row of each query's category, -1 where it is unknown."""
    row_of = {category: i for i, category in enumerate(categories)}
    return np.array([row_of.get(query.category or "", -1) for query in queries], dtype=np.intp)


def category_shares(
    queries: Sequence[Query], categories: Sequence[str], guess: Guess
) -> FloatArray:
    """(n_queries, n_categories): 1 for the category a query names, guessed where it names none.

    A category that is not among `categories` counts as none.
    """
    named = category_labels(queries, categories)
    shares = np.zeros((len(queries), len(categories)))
    known = np.flatnonzero(named >= 0)
    shares[known, named[known]] = 1.0
    unnamed = np.flatnonzero(named < 0)
    if len(unnamed):
        shares[unnamed] = guess(unnamed)
    return shares


def normalized_entropy(shares: FloatArray) -> FloatArray:
    """(n_queries,) entropy of each row over that of an even split: 0 is unanimous, 1 is no idea."""
    n_categories = shares.shape[1]
    if n_categories < 2:
        return np.zeros(len(shares))
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy: FloatArray = -(shares * logs).sum(axis=1) / np.log(n_categories)
    return np.maximum(entropy, 0.0)


def expanded_labels(
    vectors: FloatArray, labels: IntArray, n_categories: int, k: int, least_share: float
) -> IntArray:
    """Labels (-1 means unknown) with the unknown ones voted by their k nearest seeds.

    A vote whose largest share is below `least_share` leaves the query unknown. Only seeds vote,
    so the result does not depend on the order of the queries.
    """
    seeds, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    expanded = labels.copy()
    if len(seeds) and len(unknown):
        votes = CategoryVotes(vectors[seeds], labels[seeds], n_categories, k)
        shares = votes.shares(vectors[unknown])
        # A share is a count over k: the slack keeps 3 of 5 at a least share of 0.6.
        agreed = shares.max(axis=1) >= least_share - 1e-9
        expanded[unknown[agreed]] = shares[agreed].argmax(axis=1)
    return expanded
