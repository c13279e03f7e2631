"""Features in which every category has slopes of its own along the main directions of the texts.

With category and embedding side by side, the words mean the same in every category. Their product
lets, say, a number in the text speak for another expert in law than in physics. Main directions
(principal components) keep the product short enough to be learnt from a few thousand queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.routers.linear import CategoryFeatures
from coe.routing import FloatArray
from coe.types import Query

N_DIRECTIONS = 20
"""Main directions of the embeddings on which each category has slopes of its own."""
EMBEDDING_SPREAD, CATEGORY_SPREAD, SLOPES_SPREAD = 0.9, 1.0, 1.5
"""Mean squared length of each part of a row; a penalty on the weights shrinks a longer one less."""
_FLAT = 1e-9


class SlopeFeatures:
    """Embedding, category and their product as one row of numbers, centred and scaled."""

    def __init__(self, categories: CategoryFeatures, arrays: Mapping[str, NDArray[Any]]) -> None:
        """`arrays`: "directions" (dim, n_directions), "center" and "scale" (n_features,)."""
        self.categories = categories
        self._directions = arrays["directions"].astype(np.float64)
        self._center = arrays["center"].astype(np.float64)
        self._scale = arrays["scale"].astype(np.float64)

    @classmethod
    def fit(cls, queries: Sequence[Query], vectors: FloatArray) -> SlopeFeatures:
        """Learns from the queries that name a category; none may."""
        categories = CategoryFeatures.fit(queries, vectors)
        directions = main_directions(vectors)
        dim, n_categories = vectors.shape[1], len(categories.categories)
        n_features = dim + n_categories * (1 + directions.shape[1])
        center, scale = np.zeros(n_features), np.ones(n_features)
        center[:dim] = vectors.mean(axis=0, dtype=np.float64)
        arrays = {"directions": directions, "center": center, "scale": scale}
        rows = cls(categories, arrays).rows(queries, vectors)
        means = rows.mean(axis=0)
        lengths = ((rows - means) ** 2).mean(axis=0)
        starts = (0, dim, dim + n_categories, n_features)
        spreads = (EMBEDDING_SPREAD, CATEGORY_SPREAD, SLOPES_SPREAD)
        for start, stop, spread in zip(starts, starts[1:], spreads, strict=False):
            length = float(lengths[start:stop].sum())
            scale[start:stop] = np.sqrt(spread / length) if length > _FLAT else 0.0
        center += means
        return cls(categories, arrays)

    def rows(self, queries: Sequence[Query], vectors: FloatArray) -> FloatArray:
        """(n_queries, dim + n_categories (1 + n_directions)) float64.

        A query that names no category gets the product with the shares guessed for it.
        """
        wide = self.categories.rows(queries, vectors)
        dim = vectors.shape[1]
        along = (wide[:, :dim] - self._center[:dim]) @ self._directions
        product = (wide[:, dim:, None] * along[:, None, :]).reshape(
            len(wide), (wide.shape[1] - dim) * along.shape[1]
        )
        scaled: FloatArray = (np.hstack([wide, product]) - self._center) * self._scale
        return scaled

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """What the constructor takes, and "guess", the weights of the guessed category."""
        return {
            "guess": self.categories.weights.astype(np.float32),
            "directions": self._directions,
            "center": self._center,
            "scale": self._scale,
        }


def main_directions(vectors: FloatArray) -> FloatArray:
    """(dim, n) orthonormal, most spread first; `N_DIRECTIONS` of them, or fewer if that is all."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    powers, axes = np.linalg.eigh(centered.T @ centered)
    order = np.argsort(-powers)[:N_DIRECTIONS]
    directions: FloatArray = axes[:, order[powers[order] > _FLAT]]
    return directions
