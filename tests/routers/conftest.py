"""Small tables and an encoder of words, so that routers are tested without any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.outcomes import OutcomeTable
from coe.routing import FloatArray
from coe.types import Query

WORDS = ("sum", "plus", "digit", "river", "city", "country", "atom", "acid", "metal")


class WordEncoder:
    """One dimension a known word: similar means sharing words."""

    name = "words-1"
    dim = len(WORDS)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        counts = np.array([[text.split().count(w) for w in WORDS] for text in texts], np.float32)
        counts = counts.reshape(len(texts), self.dim)
        units: FloatArray = counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
        return units


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def table() -> OutcomeTable:
    """30 queries of three categories; expert i is right in category i and 40 % elsewhere."""
    rng = np.random.default_rng(0)
    queries, rows = [], []
    for i in range(30):
        category = i % 3
        words = rng.choice(WORDS[3 * category : 3 * category + 3], size=2, replace=False)
        queries.append(Query(" ".join(words), f"q{i}", ("maths", "places", "chemistry")[category]))
        rows.append([1.0 if e == category else float(i % 5 < 2) for e in range(3)])
    return OutcomeTable(tuple(queries), ("calc", "geo", "chem"), np.array(rows))
