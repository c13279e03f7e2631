"""Token ids: the library's own, whoever cuts the text."""

from __future__ import annotations

import string
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from coe.encoders.static import DEFAULT_TABLE
from coe.encoders.wordpieces import TokenIds

SHIPPED = Tokenizer.from_file(str(DEFAULT_TABLE / "tokenizer.json"))
SHIPPED.no_truncation()
SHIPPED.no_padding()
IDS = TokenIds(SHIPPED, SHIPPED.get_vocab())
PIECES = ("[UNK]", "un", "unlike", "##like", "##ly", "##l", "like", "!", "[", "]")


def _tokenizer(
    pieces: Sequence[str] = PIECES, *, lowercase: bool = True, strip_accents: bool | None = None
) -> Tokenizer:
    """A lower-casing BERT tokenizer of a few pieces; words may have ten characters."""
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    model = WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=10)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _read(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [list(ids) for ids in TokenIds(tokenizer, tokenizer.get_vocab()).of(texts)]


def _of_library(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "What's the capital of France?\r\n\t(Paris, I'd say.)",
        "photosynthesis chloroplasts unbelievably",
        "def f(x: int) -> list[int]:\n    return [x ** 2, x_1]  # 3.14e-10",
        "aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Q/" * 9,
        f"{'a' * 100} {'a' * 101} {'interdisciplinary' * 5} {'interdisciplinary' * 6}",
        "[UNK] known [CLS] [cls] [ UNK ] [MASK][PAD] x[SEP]y",
        "a\x00b",
        "a\x0bb \x0cc",
        "a\x7fb",
        "\x1b[0m",
        "naïve café — it’s 中文 𝒳 \u2028 e\u0301",
    ],
)
def test_token_ids_are_those_of_the_library(text: str) -> None:
    assert IDS.of([text]) == _of_library(SHIPPED, text)


@given(st.lists(st.text(st.characters(max_codepoint=0x17F), max_size=60), max_size=4))
@settings(max_examples=200, deadline=None)
def test_token_ids_are_those_of_the_library_for_any_texts(texts: list[str]) -> None:
    assert IDS.of(texts) == _of_library(SHIPPED, *texts)


@given(st.text(string.ascii_letters + string.digits + " .", max_size=120))
@settings(max_examples=200, deadline=None)
def test_token_ids_are_those_of_the_library_for_words_it_never_saw(text: str) -> None:
    assert IDS.of([text]) == _of_library(SHIPPED, text)


def test_token_ids_of_plain_text_are_not_the_library_s_work() -> None:
    texts = ["unlike!", "Unlikely UN", "nothing known", "like" * 2, "[like]", "é"]
    tokenizer = _tokenizer()
    moved = {piece: id_ + 100 for piece, id_ in tokenizer.get_vocab().items()}
    ids = TokenIds(tokenizer, moved).of(texts)
    assert ids == [[102, 107], [102, 104, 101], [100, 100], [106, 103], [108, 106, 109], [0]]
    assert _read(tokenizer, *texts) == _of_library(tokenizer, *texts)


def test_token_ids_of_a_word_as_long_as_words_may_be() -> None:
    long = ("likelikely", "likelikelyl")
    tokenizer = _tokenizer((*PIECES, *long))
    assert _read(tokenizer, *long) == [[10], [0]] == _of_library(tokenizer, *long)


def test_token_ids_keep_the_order_of_texts_read_in_two_ways() -> None:
    texts = ["like", "é", "unlike", "ly é like", "!"]
    assert _read(_tokenizer(), *texts) == [[6], [0], [2], [0, 0, 6], [7]]


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(False, None), (True, False)])
def test_token_ids_follow_the_settings_of_the_normalizer(
    lowercase: bool, strip_accents: bool | None
) -> None:
    texts = ["Unlike LIKE", "unlike", "liké"]
    tokenizer = _tokenizer(lowercase=lowercase, strip_accents=strip_accents)
    assert _read(tokenizer, *texts) == _of_library(tokenizer, *texts)


def test_token_ids_of_tokens_with_names_of_their_own() -> None:
    texts = ["like and unlike", "LIKE AND un", "a, like  and"]
    for token in (AddedToken("like and"), AddedToken("like and", normalized=False)):
        tokenizer = _tokenizer()
        tokenizer.add_tokens([token])
        assert _read(tokenizer, *texts) == _of_library(tokenizer, *texts)
        assert any(10 in ids for ids in _read(tokenizer, *texts))


def test_token_ids_of_another_cut_are_those_of_the_library() -> None:
    tokenizer = _tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert _read(tokenizer, "like!", "like") == [[0], [6]]
