"""Pieces of text from tokens that may be parts of characters."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from coe.engines.detokenizer import Detokenizer


def _decode(token_ids: Sequence[int]) -> str:
    return bytes(token_ids).decode("utf-8", "replace")


def _pieces(token_ids: bytes) -> list[str]:
    detokenizer = Detokenizer(_decode)
    return [*(detokenizer.push(id_) for id_ in token_ids), detokenizer.flush()]


@given(st.text(max_size=40).filter(lambda text: "\ufffd" not in text))
def test_pieces_are_whole_characters_and_join_to_the_text(text: str) -> None:
    pieces = _pieces(text.encode("utf-8"))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.binary(max_size=40))
def test_pieces_of_broken_text_join_to_its_decoding_but_for_the_end(token_ids: bytes) -> None:
    assert "".join(_pieces(token_ids)) == _decode(token_ids).rstrip("\ufffd")


def test_character_cut_off_by_the_end_is_dropped() -> None:
    assert "".join(_pieces("caf€".encode()[:-1])) == "caf"


def test_character_comes_with_its_last_byte() -> None:
    assert _pieces("a€b".encode()) == ["a", "", "", "€", "b", ""]


def test_first_word_keeps_its_neighbours_space() -> None:
    words = ["▁one", "▁two", "▁three"]

    def decode(token_ids: Sequence[int]) -> str:
        return "".join(words[id_] for id_ in token_ids).replace("▁", " ").removeprefix(" ")

    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(id_) for id_ in range(3)] == ["one", " two", " three"]
