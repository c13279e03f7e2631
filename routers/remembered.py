"""Encoders that need not encode again: over the texts of a table, or over the last batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.routing import Encoder, FloatArray


class _Batch:
    """Texts and their vectors."""

    def __init__(self, texts: Sequence[str], vectors: FloatArray) -> None:
        self._rows = {text: i for i, text in enumerate(texts)}
        self._vectors = vectors

    def vectors_of(self, texts: Sequence[str]) -> FloatArray | None:
        """(n_texts, dim), or None unless all are in the batch."""
        rows = [self._rows.get(text, -1) for text in texts]
        if -1 in rows:
            return None
        found: FloatArray = self._vectors[np.array(rows, dtype=np.intp)]
        return found


class KnownTexts:
    """An encoder that has a table's vectors at hand and asks the real one for other texts."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._batch = _Batch(texts, encoder.encode(texts))

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        known = self._batch.vectors_of(texts)
        return self._encoder.encode(texts) if known is None else known


class LastBatch:
    """An encoder for several scorers of one batch: what was just encoded is not encoded again.

    Safe to share between threads: a batch is replaced whole, and at worst encoded twice.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._batch = _Batch((), np.zeros((0, encoder.dim), dtype=np.float32))

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        vectors = self._batch.vectors_of(texts)
        if vectors is None:
            vectors = self._encoder.encode(texts)
            self._batch = _Batch(texts, vectors)
        return vectors
