"""Where a result comes from: data, code and arguments, enough to make it again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import coe

_PACKAGES = ("numpy", "pyarrow", "faiss-cpu", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Origin:
    """What was measured, on which data. None in a field means that there is none."""

    benchmark: str
    data_digest: str
    fit_digest: str | None
    split: str | None
    fit_split: str | None
    encoder: str | None
    seed: int
    arguments: tuple[str, ...]
    """The command's arguments as the user typed them."""


def provenance(origin: Origin) -> dict[str, object]:
    """The origin with versions and the commit of the code, as plain JSON values."""
    commit, is_dirty = _commit()
    return {
        "benchmark": origin.benchmark,
        "data_digest": origin.data_digest,
        "fit_digest": origin.fit_digest,
        "split": origin.split,
        "fit_split": origin.fit_split,
        "encoder": origin.encoder,
        "seed": origin.seed,
        "arguments": list(origin.arguments),
        "versions": _versions(_PACKAGES),
        "commit": commit,
        "dirty": is_dirty,
    }


def _versions(packages: Sequence[str]) -> Mapping[str, str]:
    found = {"coe": coe.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the running code and whether it was changed since; None if not known."""
    home = Path(coe.__file__).resolve().parent
    # An installed copy may lie inside somebody else's repository, whose commit says nothing.
    if _git(home, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(home, "rev-parse", "HEAD")
    status = _git(home, "status", "--porcelain")
    return commit, None if status is None else bool(status)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        ran = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
