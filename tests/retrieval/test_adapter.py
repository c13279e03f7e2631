"""Adapters: what they compute, and that their folders are whole or an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coe.errors import ConfigError, PoolMismatch
from coe.retrieval.adapter import MANIFEST, WEIGHTS, AdaptedEncoder, LinearAdapter
from coe.routing import Encoder

TEXTS = ["the keel of a ship", "", "yeast and flour"]


def _adapter(base: Encoder, seed: int = 0) -> LinearAdapter:
    rng = np.random.default_rng(seed)
    matrix = np.eye(base.dim) + 0.05 * rng.normal(size=(base.dim, base.dim))
    offset = 0.01 * rng.normal(size=base.dim)
    return LinearAdapter(matrix.astype(np.float32), offset.astype(np.float32), base.name)


def test_identity_gives_the_vectors_of_the_base(base: Encoder) -> None:
    adapted = AdaptedEncoder(base, LinearAdapter.identity(base))
    assert adapted.encode(TEXTS) == pytest.approx(base.encode(TEXTS), abs=1e-6)
    assert adapted.dim == base.dim


def test_adapter_gives_unit_rows_and_leaves_the_unknown_zero(base: Encoder) -> None:
    rows = AdaptedEncoder(base, _adapter(base)).encode(TEXTS)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 1], abs=1e-5)
    by_hand = (base.encode(TEXTS[:1]) - _adapter(base).offset) @ _adapter(base).matrix
    assert rows[0] == pytest.approx(by_hand[0] / np.linalg.norm(by_hand), abs=1e-5)


def test_saved_adapter_is_read_back_bit_for_bit(base: Encoder, tmp_path: Path) -> None:
    adapter = _adapter(base)
    adapter.save(tmp_path / "a")
    read = LinearAdapter.load(tmp_path / "a")
    assert np.array_equal(read.matrix, adapter.matrix)
    assert np.array_equal(read.offset, adapter.offset)
    assert AdaptedEncoder(base, read).name == AdaptedEncoder(base, adapter).name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_saving_again_replaces_an_adapter_and_nothing_else(base: Encoder, tmp_path: Path) -> None:
    for seed in (0, 1):
        _adapter(base, seed).save(tmp_path / "a")
    assert LinearAdapter.load(tmp_path / "a").digest() == _adapter(base, 1).digest()
    other = tmp_path / "other"
    other.mkdir()
    (other / "letters.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no adapter; name another folder"):
        _adapter(base).save(other)
    assert (other / "letters.txt").read_text() == "mine"


def test_names_tell_adapters_of_one_base_apart(base: Encoder) -> None:
    names = {AdaptedEncoder(base, _adapter(base, seed)).name for seed in range(3)}
    assert len(names) == 3
    assert all(name.startswith(f"{base.name}+") for name in names)


def test_adapter_of_another_base_is_refused(base: Encoder) -> None:
    stranger = LinearAdapter(np.eye(3), np.zeros(3), "another")
    with pytest.raises(PoolMismatch, match="fitted with another, used with minilm-static"):
        AdaptedEncoder(base, stranger)


def test_missing_adapter_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter here .*coe eval beir --out"):
        LinearAdapter.load(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "swapped", "no base", "format"])
def test_damaged_adapter_is_an_error_naming_its_folder(
    base: Encoder, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "a"
    _adapter(base).save(folder)
    told = json.loads((folder / MANIFEST).read_text())
    if damage == "truncated":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    elif damage == "swapped":
        _adapter(base, 1).save(tmp_path / "b")
        (tmp_path / "b" / WEIGHTS).replace(folder / WEIGHTS)
    elif damage == "no base":
        del told["base"]
        (folder / MANIFEST).write_text(json.dumps(told))
    else:
        (folder / MANIFEST).write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(ConfigError, match="train it again") as raised:
        LinearAdapter.load(folder)
    assert raised.value.file == str(folder)
