"""Do labels hold still? How often similar queries carry different labels.

Composition of Experts (arXiv 2412.01868) routes by category because the best expert of a query
flips between near-identical queries, so that a classifier on embeddings has nothing to learn.
The claim made measurable is our reading: J_k = 1 - mean over queries of the share of the k
nearest other queries with the same label. The claim holds where J of best-expert labels is far
above J of category labels, and close to what shuffled labels give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.index import NearestNeighbors
from coe.outcomes import OutcomeTable
from coe.routing import FloatArray

IntArray = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class JitterReport:
    """Jitter of two labellings of the same queries, shares in [0, 1]."""

    k: int
    best_expert: float
    best_expert_shuffled: float
    """What labels of the same frequencies without any structure would give."""
    category: float
    category_shuffled: float
    tie_rate: float
    """Share of queries whose two best experts cannot be told apart."""


def label_jitter(vectors: FloatArray, labels: IntArray, k: int) -> float:
    """J_k over unit vectors; a query is not its own neighbour."""
    if len(vectors) < 2:
        raise DatasetError("jitter needs at least two queries")
    k = min(k, len(vectors) - 1)
    _, neighbors = NearestNeighbors(vectors).search(vectors, k + 1)
    own = neighbors == np.arange(len(vectors))[:, None]
    # Among duplicates a query may be missing from its own k + 1: then the last one is dropped.
    own[~own.any(axis=1), -1] = True
    others = neighbors[~own].reshape(len(vectors), k)
    return float(1.0 - (labels[others] == labels[:, None]).mean())


def shuffled_jitter(labels: IntArray) -> float:
    """Expected J of the same labels in random order: two random queries differ in label."""
    _, counts = np.unique(labels, return_counts=True)
    n = len(labels)
    return float(1.0 - (counts * (counts - 1)).sum() / (n * (n - 1)))


def tie_rate(scores: FloatArray, noise: float = 0.0) -> float:
    """Share of queries whose best two measured scores differ by at most `noise`."""
    measured = scores[(~np.isnan(scores)).sum(axis=1) >= 2]
    if len(measured) == 0:
        raise DatasetError("no query was answered by two experts")
    first_two = np.sort(np.where(np.isnan(measured), -np.inf, measured), axis=1)[:, -2:]
    return float((first_two[:, 1] - first_two[:, 0] <= noise).mean())


def jitter_report(
    table: OutcomeTable, vectors: FloatArray, k: int = 10, noise: float = 0.0
) -> JitterReport:
    """Both labellings on the queries that have a category and a measured expert.

    Of equally good experts the first is the label, as an argmax makes it.
    """
    measured = ~np.isnan(table.scores).all(axis=1)
    kept = measured & np.array([query.category is not None for query in table.queries])
    known = table.rows(kept)
    if known.n_queries < 2:
        raise DatasetError("jitter needs at least two queries with category and outcomes")
    best = np.nanargmax(known.scores, axis=1)
    names = known.categories
    categories = np.array([names.index(query.category or "") for query in known.queries])
    return JitterReport(
        k,
        label_jitter(vectors[kept], best, k),
        shuffled_jitter(best),
        label_jitter(vectors[kept], categories, k),
        shuffled_jitter(categories),
        tie_rate(known.scores, noise),
    )
