"""What an expert learns from, and what it never sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coe.errors import DatasetError
from coe.retrieval.collection import Collection, Document
from coe.retrieval.pairs import count_kinds, is_held_out, pairs_of, sentences_of

TEXT = "First of all a beginning. Then comes a middle part. Here is the very end."


def test_pairs_name_title_sentences_and_training_queries(ships: Collection) -> None:
    pairs = pairs_of(ships, "train")
    anchors = {(pair.kind, pair.anchor) for pair in pairs if pair.document_id == "ships-0"}
    assert ("title", "On the keel and the mast 0") in anchors
    assert ("sentence", "The keel stands beside the mast on day 0.") in anchors
    assert ("query", "a good keel") in anchors


def test_pairs_never_hold_a_query_of_another_split(ships: Collection) -> None:
    asked = {pair.anchor for pair in pairs_of(ships, "train") if pair.kind == "query"}
    assert asked == {"a good keel", "a good mast"}
    assert not any(pair.kind == "query" for pair in pairs_of(ships, None))


def test_pairs_of_a_collection_without_the_split_are_its_documents(ships: Collection) -> None:
    tested = replace(ships, splits=("test",) * 4)
    assert pairs_of(tested, "train") == pairs_of(ships, None)


def test_documents_held_out_give_no_pair_to_train_on(ships: Collection) -> None:
    pairs = pairs_of(ships, None)
    held_out = {pair.document_id for pair in pairs if pair.is_held_out}
    assert 0 < len(held_out) < 15
    assert held_out.isdisjoint(pair.document_id for pair in pairs if not pair.is_held_out)
    assert all(is_held_out(id_) for id_ in held_out)
    assert count_kinds(pairs)["held_out"] == sum(pair.is_held_out for pair in pairs)


def test_sentences_are_the_first_and_one_drawn_by_the_seed_alone() -> None:
    chosen = sentences_of(TEXT, "a seed")
    assert chosen[0] == "First of all a beginning."
    assert chosen[1] in ("Then comes a middle part.", "Here is the very end.")
    assert chosen == sentences_of(TEXT, "a seed")
    drawn = {sentences_of(TEXT, str(seed))[1] for seed in range(20)}
    assert drawn == {"Then comes a middle part.", "Here is the very end."}


def test_text_without_sentences_gives_its_first_words() -> None:
    words = " ".join(f"w{i}" for i in range(20))
    assert sentences_of(words, "s") == ["w0 w1 w2 w3 w4 w5 w6 w7"]
    assert sentences_of("too few words", "s") == []


def test_document_with_a_title_alone_gives_no_pair() -> None:
    bare = Collection("c", (Document("d", "", "Only a title"),), (), (), {})
    assert pairs_of(bare, None) == []


def test_unknown_split_names_those_that_there_are(ships: Collection) -> None:
    with pytest.raises(DatasetError, match=r"no split 'tset' \(it has test, train\).*'test'"):
        ships.split("tset")
