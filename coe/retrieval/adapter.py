"""The light expert of one domain: an affine map behind a frozen base encoder.

Query and document go through the same map, so an expert needs an index of its own. The identity
is the base encoder itself, and it is what training starts from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from coe.errors import ConfigError, PoolMismatch
from coe.routing import Encoder

FloatArray = NDArray[np.floating]

FORMAT = 1
MANIFEST = "adapter.json"
WEIGHTS = "adapter.safetensors"
_FIX = "train it again with `coe eval beir --out`"


@dataclass(frozen=True, slots=True, eq=False)
class LinearAdapter:
    """`unit((x - offset) @ matrix)` for every unit vector x of the base encoder."""

    matrix: FloatArray
    """(dim, dim)."""
    offset: FloatArray
    """(dim,)."""
    base: str
    """Name of the encoder whose vectors it takes."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, for people."""

    @classmethod
    def identity(cls, encoder: Encoder) -> LinearAdapter:
        return cls(
            np.eye(encoder.dim, dtype=np.float32),
            np.zeros(encoder.dim, dtype=np.float32),
            encoder.name,
        )

    def __call__(self, rows: FloatArray) -> FloatArray:
        """(n, dim) unit vectors; a zero row, which is a text without known words, stays zero."""
        turned = (rows.astype(np.float32) - self.offset) @ self.matrix
        lengths = np.sqrt(np.einsum("ij,ij->i", turned, turned))[:, None]
        known = (np.abs(rows).max(axis=1, keepdims=True) > 0) & (lengths > 0)
        units: FloatArray = np.divide(turned, lengths, out=np.zeros_like(turned), where=known)
        return units

    def digest(self) -> str:
        """A short name for exactly these weights on this base."""
        hasher = hashlib.sha256(self.base.encode())
        for array in (self.matrix, self.offset):
            hasher.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return hasher.hexdigest()[:8]

    def save(self, folder: Path) -> None:
        """Writes the folder whole or not at all; refuses to replace what is no adapter."""
        folder = folder.resolve()
        if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise ConfigError(
                "is not empty and holds no adapter; name another folder", file=str(folder)
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        told = {"format": FORMAT, "base": self.base, "digest": self.digest(), **self.facts}
        try:
            weights = {
                "matrix": self.matrix.astype(np.float32),
                "offset": self.offset.astype(np.float32),
            }
            (fresh / WEIGHTS).write_bytes(save(weights))
            text = json.dumps(told, indent=2, ensure_ascii=False)
            (fresh / MANIFEST).write_text(text + "\n", encoding="utf-8")
            fresh.chmod(0o755)
            if folder.exists():
                # Weights first: a reader that comes between the two finds the digest wrong.
                for name in (WEIGHTS, MANIFEST):
                    os.replace(fresh / name, folder / name)
            else:
                os.replace(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> LinearAdapter:
        """Reads what `save` wrote; `ConfigError` if it is missing or damaged."""
        if not (folder / MANIFEST).is_file():
            raise ConfigError(
                f"no adapter here (no {MANIFEST}); `coe eval beir --out` writes some",
                file=str(folder),
            )
        try:
            told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            arrays = load((folder / WEIGHTS).read_bytes())
            base, digest, found = told.pop("base"), told.pop("digest"), told.pop("format")
            adapter = cls(arrays["matrix"], arrays["offset"], base, told)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(f"damaged adapter ({error!r}); {_FIX}", file=str(folder)) from None
        if found != FORMAT:
            raise ConfigError(
                f"adapter of format {found}, this version reads {FORMAT}; {_FIX}", file=str(folder)
            )
        if adapter.digest() != digest or not np.isfinite(adapter.matrix).all():
            raise ConfigError(
                f"damaged adapter (its weights are not those of its manifest); {_FIX}",
                file=str(folder),
            )
        return adapter


class AdaptedEncoder:
    """An expert as an encoder: the base and its adapter."""

    def __init__(self, base: Encoder, adapter: LinearAdapter) -> None:
        if adapter.base != base.name:
            raise PoolMismatch("adapter, encoder", adapter.base, base.name, _FIX)
        self._base = base
        self._adapter = adapter

    @property
    def name(self) -> str:
        """The base's name and a digest of the adapter."""
        return f"{self._base.name}+{self._adapter.digest()}"

    @property
    def dim(self) -> int:
        return self._base.dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        return self._adapter(self._base.encode(texts))
