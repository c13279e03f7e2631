"""The ONNX encoder over a model of one look-up, written here byte by byte.

The `onnx` package is needed to export a real one, and not to serve it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from coe.encoders import OnnxEncoder
from coe.errors import ConfigError

pytest.importorskip("onnxruntime")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "north", "south", "east"]
TABLE = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _value(name: str, element: int, last: int | None = None) -> bytes:
    dims = [_bytes(1, _bytes(2, "batch")), _bytes(1, _bytes(2, "tokens"))]
    if last is not None:
        dims.append(_bytes(1, _number(1, last)))
    tensor = _number(1, element) + _bytes(2, b"".join(dims))
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))


def _lookup_model() -> bytes:
    """An ONNX file: token_vectors = Gather(table, input_ids)."""
    node = _bytes(1, "table") + _bytes(1, "input_ids") + _bytes(2, "token_vectors")
    node += _bytes(4, "Gather")
    shape = b"".join(_number(1, size) for size in TABLE.shape)
    table = shape + _number(2, 1) + _bytes(8, "table") + _bytes(9, TABLE.tobytes())
    graph = _bytes(1, node) + _bytes(2, "lookup") + _bytes(5, table)
    graph += _bytes(11, _value("input_ids", 7)) + _bytes(11, _value("attention_mask", 7))
    graph += _bytes(12, _value("token_vectors", 1, TABLE.shape[1]))
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 17))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "model.onnx").write_bytes(_lookup_model())
    return tmp_path


def _mean(*ids: int) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = TABLE[list(ids)].mean(axis=0)
    mean /= np.linalg.norm(mean)
    return mean


def test_onnx_encoder_averages_each_rows_own_tokens(folder: Path) -> None:
    rows = OnnxEncoder(folder).encode(["north south east", "", "north", "south north"])
    nothing = np.zeros(4, dtype=np.float32)
    expected = np.stack([_mean(2, 4, 5, 6, 3), nothing, _mean(2, 4, 3), _mean(2, 5, 4, 3)])
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert rows.dtype == np.float32


def test_onnx_encoder_keeps_order_over_many_batches(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    texts = ["north " * (i * 7 % 40) + "south" for i in range(100)]
    rows = encoder.encode(texts)
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_allclose(row, encoder.encode([text])[0], atol=1e-6)


def test_onnx_encoder_reads_256_tokens(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    cut, whole = encoder.encode(["north " * 300 + "south " * 300, "north " * 254])
    np.testing.assert_allclose(cut, whole, atol=1e-6)


def test_onnx_encoder_knows_its_dimension_and_name(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    assert encoder.dim == 4
    assert encoder.name.startswith(f"{folder.name}@")
    assert encoder.encode([]).shape == (0, 4)


def test_onnx_encoder_names_the_missing_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(ConfigError, match=r"model\.onnx: is missing.*export_onnx"):
        OnnxEncoder(folder)


def test_onnx_encoder_says_which_package_it_lacks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install \"coe-router\[onnx\]\""):
        OnnxEncoder(folder)
