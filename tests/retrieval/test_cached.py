"""Vectors kept on disk: made once, made again when damaged, never mixed up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coe.retrieval.cached import CachedEncoder
from coe.routing import Encoder, FloatArray


class Counting:
    """The base, with a count of the texts it was asked for."""

    def __init__(self, base: Encoder, name: str = "counting") -> None:
        self.base, self.name, self.dim, self.n_texts = base, name, base.dim, 0

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.n_texts += len(texts)
        return self.base.encode(texts)


def test_same_texts_are_encoded_once(base: Encoder, tmp_path: Path) -> None:
    counting = Counting(base)
    first = CachedEncoder(counting, tmp_path).encode(["a ship", "a loaf"])
    again = CachedEncoder(counting, tmp_path).encode(["a ship", "a loaf"])
    assert counting.n_texts == 2
    assert np.array_equal(first, again)
    assert np.array_equal(first, base.encode(["a ship", "a loaf"]))


@pytest.mark.parametrize("texts", [["a loaf", "a ship"], ["a shi", "pa loaf"], ["a ship"]])
def test_other_texts_are_not_taken_for_them(
    base: Encoder, tmp_path: Path, texts: list[str]
) -> None:
    cached = CachedEncoder(Counting(base), tmp_path)
    cached.encode(["a ship", "a loaf"])
    assert np.array_equal(cached.encode(texts), base.encode(texts))


def test_another_encoder_has_its_own_vectors(base: Encoder, tmp_path: Path) -> None:
    one, other = Counting(base), Counting(base, "other")
    CachedEncoder(one, tmp_path).encode(["a ship"])
    CachedEncoder(other, tmp_path).encode(["a ship"])
    assert other.n_texts == 1


def test_damaged_file_is_made_again(base: Encoder, tmp_path: Path) -> None:
    counting = Counting(base)
    cached = CachedEncoder(counting, tmp_path)
    kept = cached.encode(["a ship"])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert np.array_equal(cached.encode(["a ship"]), kept)
    assert counting.n_texts == 2
    assert np.array_equal(np.load(file), kept)
