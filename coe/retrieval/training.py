"""Trains an adapter: contrastive loss on pairs of vectors, stopped by pairs held out.

It starts from the documents alone: their mean is taken away and their covariance is half-way
whitened, which evens out what all documents of a domain share. The loss is InfoNCE with in-batch
negatives, both ways; the base encoder stays frozen, so that
its vectors are made once and an epoch costs two matrix products a batch. Torch is imported when
something is trained and never to serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, install_hint
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.pairs import Pair

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

_NEVER = -1e9
_LEAST_PAIRS = 8
_MOST_HELD_OUT = 1024


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained. docs/retrieval.md says how the defaults were chosen."""

    learning_rate: float = 3e-4
    temperature: float = 0.1
    batch_rows: int = 128
    max_epochs: int = 8
    patience: int = 2
    """Epochs without a lower loss on the pairs held out before training ends."""
    query_repeats: float = 16.0
    """How often an epoch sees each training query, each time with one of its documents. There
    are few of them, and some have many documents: these would crowd out all else."""
    whitening: float = 0.25
    """Power of the documents' covariance that the start divides by; 0 starts from the identity,
    0.5 whitens."""
    whitening_floor: float = 0.03
    """Added to its eigenvalues, as a share of the largest."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PairVectors:
    """Pairs as the base encoder sees them. Rows belong together."""

    anchors: FloatArray
    positives: FloatArray
    anchor_ids: IntArray
    document_ids: IntArray
    weights: FloatArray
    """How often an epoch sees each row, on average; 0 for rows that are held out."""

    @classmethod
    def of(
        cls, pairs: Sequence[Pair], anchors: FloatArray, positives: FloatArray, recipe: Recipe
    ) -> PairVectors:
        n_documents = Counter(pair.anchor_id for pair in pairs if pair.kind == "query")

        def weight(pair: Pair) -> float:
            if pair.is_held_out:
                return 0.0
            is_query = pair.kind == "query"
            return recipe.query_repeats / n_documents[pair.anchor_id] if is_query else 1.0

        return cls(
            anchors,
            positives,
            _codes([pair.anchor_id for pair in pairs]),
            _codes([pair.document_id for pair in pairs]),
            np.array([weight(pair) for pair in pairs]),
        )

    @classmethod
    def joined(cls, parts: Sequence[PairVectors]) -> PairVectors:
        """Several domains as one, with ids that stay apart."""
        return cls(
            np.concatenate([part.anchors for part in parts]),
            np.concatenate([part.positives for part in parts]),
            _apart([part.anchor_ids for part in parts]),
            _apart([part.document_ids for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter and how it came about."""

    adapter: LinearAdapter
    epochs: int
    """Of which the best one was kept."""
    losses: tuple[float, ...]
    """On the pairs held out: before training, then after each epoch."""


def train_adapter(vectors: PairVectors, base: str, recipe: Recipe) -> Trained:
    """An adapter for the encoder of that name. The same input gives the same adapter.

    Raises `DatasetError` where there are too few pairs to learn from or to stop by.
    """
    n_rows = int((vectors.weights > 0).sum())
    rng = np.random.default_rng(recipe.seed)
    # Drawn, and not the first ones: of several domains each has its part.
    held_out = rng.permutation(np.flatnonzero(vectors.weights == 0))[:_MOST_HELD_OUT]
    if n_rows < _LEAST_PAIRS or len(held_out) < 2:
        raise DatasetError(
            f"{n_rows} pairs to train on and {len(held_out)} held out are too few for an "
            "adapter; give documents with titles or several sentences, or use the base encoder"
        )
    learner = _Learner(vectors, recipe)
    losses = [learner.loss_on(held_out)]
    best = learner.adapter(base)
    for epoch in range(recipe.max_epochs):
        learner.epoch(rng.permutation(_drawn(vectors.weights, rng)))
        losses.append(learner.loss_on(held_out))
        if losses[-1] < min(losses[:-1]):
            best = learner.adapter(base)
        elif epoch + 1 - int(np.argmin(losses)) >= recipe.patience:
            break
    return Trained(best, len(losses) - 1, tuple(losses))


class _Learner:
    """The weights while they change."""

    def __init__(self, vectors: PairVectors, recipe: Recipe) -> None:
        try:
            import torch
        except ImportError:
            raise ConfigError(f"training an adapter needs torch: {install_hint('local')}") from None
        self._torch = torch
        self._recipe = recipe
        self._anchors = torch.from_numpy(np.ascontiguousarray(vectors.anchors, np.float32))
        self._positives = torch.from_numpy(np.ascontiguousarray(vectors.positives, np.float32))
        self._anchor_ids = torch.from_numpy(vectors.anchor_ids)
        self._document_ids = torch.from_numpy(vectors.document_ids)
        start = starting_point(vectors.positives[vectors.weights > 0], recipe)
        self._matrix, self._offset = (torch.from_numpy(array).requires_grad_() for array in start)
        weights = [self._matrix, self._offset]
        self._optimizer = torch.optim.Adam(weights, lr=recipe.learning_rate)

    def epoch(self, rows: IntArray) -> None:
        size = min(self._recipe.batch_rows, len(rows))
        for start in range(0, len(rows) - size + 1, size):
            loss = self._loss(rows[start : start + size])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def loss_on(self, rows: IntArray) -> float:
        with self._torch.no_grad():
            return float(self._loss(rows))

    def adapter(self, base: str) -> LinearAdapter:
        return LinearAdapter(
            self._matrix.detach().numpy().copy(), self._offset.detach().numpy().copy(), base
        )

    def _loss(self, rows: IntArray) -> torch.Tensor:
        kit = self._torch
        picked = kit.from_numpy(rows)
        anchors, positives = (
            self._turned(self._anchors[picked]),
            self._turned(self._positives[picked]),
        )
        similarities = anchors @ positives.T / self._recipe.temperature
        same = self._same(self._anchor_ids[picked]) | self._same(self._document_ids[picked])
        same &= ~kit.eye(len(rows), dtype=kit.bool)
        similarities = similarities.masked_fill(same, _NEVER)
        target = kit.arange(len(rows))
        entropy = kit.nn.functional.cross_entropy
        loss: torch.Tensor = entropy(similarities, target) + entropy(similarities.T, target)
        return loss / 2

    def _turned(self, rows: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = (rows - self._offset) @ self._matrix
        return self._torch.nn.functional.normalize(turned, dim=1)

    @staticmethod
    def _same(ids: torch.Tensor) -> torch.Tensor:
        return ids[:, None] == ids[None, :]


def starting_point(documents: FloatArray, recipe: Recipe) -> tuple[FloatArray, FloatArray]:
    """The (dim, dim) matrix, of norm 1, and the offset that training starts from."""
    dim = documents.shape[1]
    if not recipe.whitening:
        return np.eye(dim, dtype=np.float32), np.zeros(dim, dtype=np.float32)
    wide = documents.astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(wide, rowvar=False))
    scales = (values.clip(0) + recipe.whitening_floor * values[-1]) ** -recipe.whitening
    matrix = (axes * (scales / scales.max())) @ axes.T
    return matrix.astype(np.float32), wide.mean(axis=0).astype(np.float32)


def _drawn(weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """Rows of one epoch: each as often as its weight says, a fraction by chance."""
    whole = np.floor(weights)
    times = whole + (rng.random(len(weights)) < weights - whole)
    return np.repeat(np.arange(len(weights)), times.astype(int))


def _codes(ids: Sequence[str]) -> IntArray:
    return np.unique(np.array(ids), return_inverse=True)[1].astype(np.int64)


def _apart(parts: Sequence[IntArray]) -> IntArray:
    ends = np.cumsum([0, *(int(part.max()) + 1 if len(part) else 0 for part in parts)])
    return np.concatenate([part + start for part, start in zip(parts, ends[:-1], strict=True)])
