"""The experts of a run as a folder that `coe serve` takes: adapters, router and `experts.yaml`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from coe.errors import ConfigError
from coe.eval.beir_systems import Pool
from coe.eval.tables import save_outcomes

CONFIG = "experts.yaml"


def save_pool(pool: Pool, folder: Path, encoder: str) -> None:
    """Writes the folder whole or not at all; `encoder` is the section of that name, as YAML.

    Refuses a folder that has something in it: nothing that was trained before is replaced.
    """
    check_free(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, adapter in pool.adapters().items():
            adapter.save(fresh / "adapters" / name)
        pool.scorer.artifact().save(fresh / "router")
        save_outcomes(pool.table, fresh / "outcomes.parquet", "train")
        (fresh / CONFIG).write_text(_config(tuple(pool.experts), encoder), encoding="utf-8")
        fresh.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Raises `ConfigError` unless the folder can be written. Asked before hours are spent."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "is there already and not empty; name another folder or delete it", file=str(folder)
        )


def _config(names: tuple[str, ...], encoder: str) -> str:
    lines = [
        "# Embedding experts of one base encoder. `coe serve -c` this file, then ask",
        '# /v1/embeddings with model="coe" for queries and with an expert\'s id for its documents.',
        f"encoder: {encoder}",
        "experts:",
    ]
    for name in names:
        # JSON is YAML, whatever a folder is named.
        lines += [
            f"  - id: {json.dumps(name)}",
            f"    description: {json.dumps(f'retrieval in {name}')}",
            f"    engine: {{kind: embedder, path: {json.dumps(f'adapters/{name}')}}}",
        ]
    lines += ["router:", "  scorer: pilots", "  artifact: router", "  outcomes: outcomes.parquet"]
    return "\n".join(lines) + "\n"
