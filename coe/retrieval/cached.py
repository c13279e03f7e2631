"""Vectors kept on disk: what was encoded once is read back the next time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coe.routing import Encoder

FloatArray = NDArray[np.floating]


class CachedEncoder:
    """An encoder whose batches are files of a folder, by encoder and texts.

    Meant for whole collections: a batch is found again only if all its texts are the same, in
    the same order. A file that is damaged is made again.
    """

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder = encoder
        self._folder = folder

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        file = self._folder / f"{self._key(texts)}.npy"
        try:
            kept: FloatArray = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            kept = np.zeros((0, 0), dtype=np.float32)
        if kept.shape == (len(texts), self.dim):
            return kept
        vectors = self._encoder.encode(texts)
        self._keep(file, vectors)
        return vectors

    def _key(self, texts: Sequence[str]) -> str:
        hasher = hashlib.sha256(self.name.encode())
        for text in texts:
            raw = text.encode("utf-8", "replace")
            hasher.update(len(raw).to_bytes(8, "big") + raw)
        return hasher.hexdigest()[:32]

    def _keep(self, file: Path, vectors: FloatArray) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, vectors, allow_pickle=False)
            os.replace(name, file)
        finally:
            Path(name).unlink(missing_ok=True)
