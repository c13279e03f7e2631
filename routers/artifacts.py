"""Fitted scorers on disk: a folder with `manifest.json` and `arrays.npz`. Never pickle.

The manifest names the pool, the encoder and the data a scorer was fitted on. Loading against
anything else raises `PoolMismatch`, because a column would silently mean another expert.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, PoolMismatch

FORMAT = 1
_MANIFEST = "manifest.json"
_ARRAYS = "arrays.npz"
_FIX = "fit it again with `coe fit`"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a fitted scorer is, in words and numbers that a person can read."""

    scorer: str
    expert_ids: tuple[str, ...]
    data_digest: str
    """`OutcomeTable.digest()` of what it was fitted on."""
    n_queries: int
    encoder: str | None = None
    """Name of the encoder whose vectors it holds; None where it reads no text."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    guard: Mapping[str, Any] | None = None
    """Whether held-out queries let it be used (`policies.guard.Verdict`); None: not checked."""


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A fitted scorer as plain arrays, and its manifest."""

    manifest: Manifest
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    parts: Mapping[str, Artifact] = field(default_factory=dict)
    """What was fitted together with it, each in a folder of that name inside this one."""

    def guarded(self, verdict: Mapping[str, Any] | None) -> Artifact:
        """The same with this verdict in its manifest."""
        return replace(self, manifest=replace(self.manifest, guard=verdict))

    def save(self, folder: Path) -> None:
        """Writes the folder whole or not at all, replacing an earlier artifact of that name.

        Refuses to replace a folder that is not an artifact. A link stays, and what it points to
        is replaced.
        """
        folder = folder.resolve()
        if folder.exists() and any(folder.iterdir()) and not (folder / _MANIFEST).is_file():
            raise ConfigError(
                "is not empty and holds no router artifact; name another folder",
                file=str(folder),
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            self._write(fresh)
            _swap(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        text = json.dumps(asdict(self.manifest), indent=2, ensure_ascii=False)
        (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")
        np.savez_compressed(folder / _ARRAYS, allow_pickle=False, **self.arrays)
        folder.chmod(0o755)
        for name, part in self.parts.items():
            (folder / name).mkdir()
            part._write(folder / name)

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Reads a folder that `save` wrote; `ConfigError` if it is missing or damaged."""
        if not (folder / _MANIFEST).is_file():
            raise ConfigError("no fitted router here; make one with `coe fit`", file=str(folder))
        try:
            raw = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            manifest = Manifest(**{**raw, "expert_ids": tuple(raw["expert_ids"])})
            with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
            raise ConfigError(
                f"damaged router artifact ({error}); {_FIX}", file=str(folder)
            ) from None
        if manifest.format != FORMAT:
            raise ConfigError(
                f"router artifact of format {manifest.format}, this version reads {FORMAT}; {_FIX}",
                file=str(folder),
            )
        inside = sorted(path.parent for path in folder.glob(f"*/{_MANIFEST}"))
        return cls(manifest, arrays, {path.name: cls.load(path) for path in inside})

    def check(self, expert_ids: tuple[str, ...], encoder: str | None) -> None:
        """Raises `PoolMismatch` unless it was fitted on this pool and this encoder."""
        name = f"router {self.manifest.scorer!r}"
        if self.manifest.expert_ids != expert_ids:
            raise PoolMismatch(
                f"{name}, experts",
                ", ".join(self.manifest.expert_ids),
                ", ".join(expert_ids),
                _FIX,
            )
        if self.manifest.encoder is not None and self.manifest.encoder != encoder:
            raise PoolMismatch(f"{name}, encoder", self.manifest.encoder, encoder, _FIX)


def _swap(fresh: Path, folder: Path) -> None:
    """Puts `fresh` where `folder` is, keeping the old one until the new one stands."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        os.replace(folder, old)
    except OSError:
        old.rmdir()
        raise
    try:
        os.replace(fresh, folder)
    except OSError:
        os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
