"""BM25 through bm25s: its formula by hand, and queries that match nothing."""

from __future__ import annotations

from math import log

import pytest

from coe.eval.lexical import K1, B, Bm25
from coe.retrieval.collection import Document

pytest.importorskip("bm25s")

DOCUMENTS = [
    Document("a", "keel keel mast"),
    Document("b", "mast sail"),
    Document("c", "flour yeast oven crust"),
]


def test_scores_are_those_of_the_formula() -> None:
    (scores,) = Bm25(DOCUMENTS).search(["the keel"], 3)
    idf = log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    length = 1 - B + B * 3 / 3
    assert scores == pytest.approx({"a": idf * 2 / (2 + K1 * length)}, rel=1e-5)


def test_documents_that_share_no_word_are_not_found() -> None:
    found = Bm25(DOCUMENTS).search(["mast", "harbour", ""], 3)
    assert set(found[0]) == {"a", "b"}
    assert found[0]["b"] > found[0]["a"]
    assert found[1] == found[2] == {}


def test_title_is_searched_with_the_text() -> None:
    (found,) = Bm25([Document("a", "text", "rudder"), Document("b", "other")]).search(["rudder"], 9)
    assert set(found) == {"a"}
