"""How large a model will be, told from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.engines.weights import weights_bytes


def test_weights_are_measured_in_the_wanted_dtype(tiny_model: Path) -> None:
    on_disk = (tiny_model / "model.safetensors").stat().st_size
    size = weights_bytes(tiny_model, "float32")
    # The file is its tensors and a small header.
    assert 0.9 * on_disk < size < on_disk
    assert weights_bytes(tiny_model, "auto") == size
    assert weights_bytes(tiny_model, "bfloat16") * 2 == size


def test_weights_of_a_broken_file_are_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all.")
    with pytest.raises(ValueError, match="broken safetensors header"):
        weights_bytes(tmp_path, "float32")
