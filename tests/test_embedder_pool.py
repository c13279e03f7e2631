"""Embedding experts in `experts.yaml`: read, built, and complained about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coe.assembly import engines_for
from coe.assembly.engines import embedder_for
from coe.config import load_config
from coe.encoders import default_encoder
from coe.engines.embedder import EmbedderEngine
from coe.errors import ConfigError, PoolMismatch
from coe.experts import EmbedderSpec
from coe.retrieval.adapter import LinearAdapter

POOL = """
experts:
  - {id: plain, engine: {kind: embedder}}
  - {id: ships, engine: {kind: embedder, path: adapters/ships}}
  - {id: writer, engine: {kind: scripted, default: hi}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    base = default_encoder()
    shifted = LinearAdapter(
        np.eye(base.dim, dtype=np.float32), np.full(base.dim, 0.1, np.float32), base.name
    )
    shifted.save(tmp_path / "adapters" / "ships")
    (tmp_path / "experts.yaml").write_text(POOL, encoding="utf-8")
    return tmp_path / "experts.yaml"


def test_embedders_are_read_with_paths_relative_to_the_file(file: Path) -> None:
    pool = load_config(file).pool
    assert pool.expert("plain").engine == EmbedderSpec()
    path = (file.parent / "adapters" / "ships").resolve()
    assert pool.expert("ships").engine == EmbedderSpec(str(path))
    assert pool.embedders == ("plain", "ships")


def test_embedders_are_built_on_the_pools_encoder(file: Path) -> None:
    config = load_config(file)
    engines = engines_for(config)
    assert isinstance(engines["ships"], EmbedderEngine)
    spec = config.pool.expert("ships").engine
    assert isinstance(spec, EmbedderSpec)
    adapted, plain = (embedder_for(s, config.encoder) for s in (spec, EmbedderSpec()))
    assert adapted.name.startswith(f"{plain.name}+")
    assert not np.allclose(adapted.encode(["keel"]), plain.encode(["keel"]))


def test_missing_adapter_folder_names_the_key(file: Path) -> None:
    file.write_text(POOL.replace("adapters/ships", "adapters/ship"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no such file or folder") as raised:
        load_config(file)
    assert raised.value.key == "experts[1].engine.path"


async def test_adapter_of_another_encoder_fails_the_start(file: Path, tmp_path: Path) -> None:
    LinearAdapter(np.eye(3), np.zeros(3), "another").save(tmp_path / "adapters" / "ships")
    engine = engines_for(load_config(file))["ships"]
    with pytest.raises(PoolMismatch, match="fitted with another"):
        await engine.ensure_ready(5.0)
