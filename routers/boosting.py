"""Gradient-boosted trees for each expert, on the main axes of the embedding and the category.

The non-linear counterpart of `coe.routers.linear`: least-squares boosting (Friedman 2001) by
scikit-learn's histogram trees, which are copied into plain arrays when fitted. Serving walks
all trees of all experts at once in numpy and needs no scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.linear import CategoryFeatures
from coe.routing import Encoder, FloatArray
from coe.types import Query

N_TREES = 60
N_AXES = 32
_LEARNING_RATE = 0.05
_MAX_LEAVES = 8
_MIN_LEAF = 20
"""Queries in a leaf, at least; a tenth of all where those are few."""
_CHUNK = 512
"""Queries walked together, which bounds the memory to some 20 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Binary trees laid end to end: a query goes left where its feature is at most the threshold.

    A leaf points to itself, so that a walk of the greatest depth ends in one from any root.
    """

    feature: NDArray[np.int32]
    threshold: FloatArray
    children: NDArray[np.int32]
    """(n_nodes, 2): where to go above the threshold, and at or below it."""
    value: FloatArray
    roots: NDArray[np.int32]
    """(n_trees,) as many for each expert, expert by expert."""
    depth: int

    def sums(self, rows: FloatArray, n_experts: int) -> FloatArray:
        """(n_queries, n_experts) sum of the leaves that each query reaches."""
        sums = np.empty((len(rows), n_experts))
        for at in range(0, len(rows), _CHUNK):
            part = rows[at : at + _CHUNK]
            nodes = np.broadcast_to(self.roots, (len(part), len(self.roots)))
            which = np.arange(len(part))[:, None]
            for _ in range(self.depth):
                is_low = part[which, self.feature[nodes]] <= self.threshold[nodes]
                nodes = self.children[nodes, is_low.astype(np.intp)]
            leaves = self.value[nodes].reshape(len(part), n_experts, -1)
            sums[at : at + _CHUNK] = leaves.sum(axis=2)
        return sums

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "children": self.children,
            "value": self.value,
            "roots": self.roots,
            "depth": np.array(self.depth),
        }


class BoostingScorer:
    """Each expert's probability of success, by boosted trees."""

    name = "boosting"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        arrays = artifact.arrays
        self._axes, self._center = arrays["axes"], arrays["center"]
        self._base = arrays["base"]
        self._features = CategoryFeatures(artifact.manifest.settings["categories"], arrays["guess"])
        self._trees = Trees(
            arrays["feature"],
            arrays["threshold"],
            arrays["children"],
            arrays["value"],
            arrays["roots"],
            int(arrays["depth"]),
        )

    @classmethod
    def fit(cls, table: OutcomeTable, encoder: Encoder, seed: int = 0) -> BoostingScorer:
        if table.n_queries == 0:
            raise DatasetError("boosting needs at least one query to be fitted on")
        vectors = encoder.encode([query.text for query in table.queries])
        features = CategoryFeatures.fit(table.queries, vectors)
        center, axes = _main_axes(vectors.astype(np.float64))
        rows = _reduced(features.rows(table.queries, vectors), center, axes)
        trees, base = grown_trees(rows, table.scores, seed)
        settings = {"categories": list(features.categories), "n_trees": N_TREES, "seed": seed}
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        arrays = {
            **trees.arrays(),
            "base": base,
            "axes": axes,
            "center": center,
            "guess": features.weights.astype(np.float32),
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries])
        rows = _reduced(self._features.rows(queries, vectors), self._center, self._axes)
        chances = self._base + self._trees.sums(rows, len(self.expert_ids))
        return np.clip(chances, 0.0, 1.0)

    def explain(self, query: Query) -> tuple[str, ...]:
        chances = self.score([query])[0]
        best = int(np.argmax(chances))
        n_trees = len(self._trees.roots) // len(self.expert_ids)
        return (
            f"{n_trees} trees expect {self.expert_ids[best]} to succeed with probability "
            f"{chances[best]:.0%}",
        )


def grown_trees(rows: FloatArray, outcomes: FloatArray, seed: int) -> tuple[Trees, FloatArray]:
    """Boosted trees of every expert, and (n_experts,) what their sums are added to."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    grown: list[Any] = []
    base = np.zeros(outcomes.shape[1])
    for e in range(outcomes.shape[1]):
        measured = ~np.isnan(outcomes[:, e])
        if measured.sum() < 2:
            grown.extend([None] * N_TREES)
            base[e] = outcomes[measured, e].sum()
            continue
        model = HistGradientBoostingRegressor(
            learning_rate=_LEARNING_RATE,
            max_iter=N_TREES,
            max_leaf_nodes=_MAX_LEAVES,
            min_samples_leaf=min(_MIN_LEAF, max(1, int(measured.sum()) // 10)),
            early_stopping=False,
            random_state=seed,
        )
        with threadpool_limits(1):
            model.fit(rows[measured], outcomes[measured, e])
        base[e] = float(np.ravel(model._baseline_prediction)[0])
        grown.extend(predictor.nodes for (predictor,) in model._predictors)
    return _laid_out(grown), base


def _laid_out(grown: Sequence[Any]) -> Trees:
    """scikit-learn's node tables end to end; None is a tree of one leaf of 0."""
    sizes = [1 if nodes is None else len(nodes) for nodes in grown]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    n_nodes = sum(sizes)
    feature, children = np.zeros(n_nodes, np.int32), np.zeros((n_nodes, 2), np.int32)
    threshold, value = np.zeros(n_nodes), np.zeros(n_nodes)
    children[:] = np.arange(n_nodes)[:, None]
    depth = 0
    for root, nodes in zip(roots, grown, strict=True):
        if nodes is None:
            continue
        own = slice(root, root + len(nodes))
        inner = nodes["is_leaf"] == 0
        feature[own] = np.where(inner, nodes["feature_idx"], 0)
        threshold[own] = np.where(inner, nodes["num_threshold"], 0.0)
        value[own] = nodes["value"]
        at = root + np.flatnonzero(inner)
        children[at, 0] = root + nodes["right"][inner].astype(np.int32)
        children[at, 1] = root + nodes["left"][inner].astype(np.int32)
        depth = max(depth, int(nodes["depth"].max()))
    return Trees(feature, threshold, children, value, roots, depth)


def _main_axes(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and the first principal axes, (dim,) and (dim, n_axes), their signs fixed."""
    center = vectors.mean(axis=0)
    _, axes = np.linalg.eigh((vectors - center).T @ (vectors - center))
    kept = axes[:, ::-1][:, :N_AXES]
    signs = np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])
    return center, kept * signs


def _reduced(rows: FloatArray, center: FloatArray, axes: FloatArray) -> FloatArray:
    """The embedding part of feature rows turned to its main axes; the rest stays."""
    dim = len(center)
    return np.hstack([(rows[:, :dim] - center) @ axes, rows[:, dim:]])
