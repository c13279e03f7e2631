"""The shipped table, and the loader of tables in general."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.encoders import StaticEncoder, default_encoder
from coe.encoders.static import DEFAULT_TABLE
from coe.errors import ConfigError

ENCODER = default_encoder()
TEXTS = [
    "What is the capital of France?",
    "How many protons does iron have?",
    "",
    "12 + 30 = ?",
    "word " * 3000,
]


def _similarity(a: str, b: str) -> float:
    one, other = ENCODER.encode([a, b])
    return float(one @ other)


@given(st.lists(st.text(max_size=80), max_size=6))
@settings(max_examples=60, deadline=None)
def test_static_encoder_rows_are_unit_or_zero_and_in_order(texts: list[str]) -> None:
    rows = ENCODER.encode(texts)
    assert rows.shape == (len(texts), ENCODER.dim)
    assert rows.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    for text, row in zip(texts, rows, strict=True):
        assert np.array_equal(ENCODER.encode([text])[0], row)


def test_static_encoder_survives_lone_surrogates() -> None:
    assert ENCODER.encode(["\ud800 hello"]).any()


@pytest.mark.parametrize("text", ["", " \n\t", "[UNK]", "[CLS]", "\U0001f9ff"])
def test_static_encoder_without_known_tokens_gives_the_zero_vector(text: str) -> None:
    assert not ENCODER.encode([text]).any()


def test_static_encoder_of_nothing_gives_no_rows() -> None:
    assert ENCODER.encode([]).shape == (0, ENCODER.dim)


def test_static_encoder_knows_what_is_alike() -> None:
    capitals = _similarity("capital of France", "capital city of Spain")
    assert capitals > 0.6
    assert capitals > _similarity("capital of France", "atomic number of iron") + 0.4
    assert _similarity("the chemical symbol for gold", "the atomic number of iron") > _similarity(
        "the chemical symbol for gold", "reverse the letters of a word"
    )


def test_static_encoder_gives_rare_words_more_weight() -> None:
    with_filler = _similarity("of the and in a to photosynthesis", "photosynthesis")
    assert with_filler > 0.95


def test_static_encoder_agrees_with_a_second_instance() -> None:
    other = default_encoder()
    assert other.name == ENCODER.name
    assert np.array_equal(other.encode(TEXTS), ENCODER.encode(TEXTS))


def test_static_encoder_reads_both_ends_of_a_long_text() -> None:
    filler = "the " * 5000
    plain, headed, tailed = ENCODER.encode([filler, f"iron {filler}", f"{filler} iron"])
    assert plain @ headed < 0.999
    assert plain @ tailed < 0.999


def test_static_encoder_ignores_the_middle_of_a_long_text() -> None:
    filler = "the " * 5000
    plain, middle = ENCODER.encode([filler * 2, f"{filler}iron{filler}".ljust(len(filler) * 2)])
    assert plain @ middle > 0.999


@pytest.mark.parametrize("unit", ["a", "word ", "中", "é́́", "\x00", "!?"])
def test_static_encoder_time_does_not_grow_with_a_megabyte(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    ENCODER.encode([text])
    cpu = time.process_time()
    ENCODER.encode([text])
    assert time.process_time() - cpu < 0.1


def test_static_encoder_may_be_shared_by_threads() -> None:
    expected = ENCODER.encode(TEXTS)
    with ThreadPoolExecutor(4) as threads:
        for rows in threads.map(lambda _: ENCODER.encode(TEXTS), range(100)):
            assert np.array_equal(rows, expected)


def test_static_encoder_imports_nothing_heavy() -> None:
    program = (
        "import sys; from coe.encoders import default_encoder; default_encoder().encode(['hi']); "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'joblib', 'onnxruntime', "
        "'sentence_transformers', 'huggingface_hub') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == "[]", told.stderr


def test_static_encoder_reads_what_model2vec_reads() -> None:
    model2vec = pytest.importorskip("model2vec")
    model = model2vec.StaticModel.from_pretrained(str(DEFAULT_TABLE))
    texts = [text for text in TEXTS if len(text) < 100]
    np.testing.assert_allclose(model.encode(texts), ENCODER.encode(texts), atol=1e-6)


def test_shipped_table_stays_small() -> None:
    assert sum(file.stat().st_size for file in DEFAULT_TABLE.iterdir()) < 8_000_000


def test_static_encoder_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json: is missing"):
        StaticEncoder(tmp_path)


def test_static_encoder_refuses_a_broken_table(tmp_path: Path) -> None:
    shutil.copy(DEFAULT_TABLE / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match=r"coe\.encoders\.distill"):
        StaticEncoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a table")
    with pytest.raises(ConfigError, match="is not a static table"):
        StaticEncoder(tmp_path)


def test_static_encoder_refuses_a_table_of_another_vocabulary(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    shutil.copy(DEFAULT_TABLE / "tokenizer.json", tmp_path)
    save_file({"embeddings": np.ones((3, 4), np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="3 vectors for a vocabulary of"):
        StaticEncoder(tmp_path)


def test_static_encoder_name_follows_the_table(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / DEFAULT_TABLE.name
    shutil.copytree(DEFAULT_TABLE, folder)
    assert StaticEncoder(folder).name == ENCODER.name
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings"][1000, 0] ^= 1
    save_file(tensors, folder / "model.safetensors")
    assert StaticEncoder(folder).name != ENCODER.name
