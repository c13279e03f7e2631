"""Token ids of a text, which is all that a static table needs of a tokenizer.

`tokenizers` follows every character from the text to its token, which took most of a routing
decision on a prompt of 512 tokens, and looks for pieces as long as what is left of the word,
which took ten times as long on base64. So plain ASCII is cut here, where BERT's rules leave nothing
but words and single marks. Every other text, and every other kind of tokenizer, is the library's.
The ids are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

_NOT_PLAIN = re.compile(r"[^\t\n\r -~]")
_WORD_OR_MARK = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_NO_PIECE = -1


class TokenIds:
    """Reads texts with a tokenizer whose truncation and padding are off."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> None:
        """`vocabulary`: what `get_vocab` gives, which takes a while."""
        self._tokenizer = tokenizer
        self._plain = _PlainText(tokenizer, vocabulary) if _cuts_as_bert(tokenizer) else None

    def of(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """One row a text, in order, without the marks that a model wants around it."""
        plain = self._plain
        found = [None if plain is None else plain.ids(text) for text in texts]
        others = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        if not others:
            return [ids for ids in found if ids is not None]
        read = iter(self._tokenizer.encode_batch_fast(others, add_special_tokens=False))
        return [next(read).ids if ids is None else ids for ids in found]


class _PlainText:
    """A lower-casing BERT tokenizer, for printable ASCII."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> None:
        model = tokenizer.model
        prefix = model.continuing_subword_prefix
        self._most_chars = model.max_input_chars_per_word
        first = {p: id_ for p, id_ in vocabulary.items() if not p.startswith(prefix)}
        # What is longer than a word may be is never found.
        self._first = _by_prefix({p: i for p, i in first.items() if len(p) <= self._most_chars})
        self._next = _by_prefix(
            {p.removeprefix(prefix): i for p, i in vocabulary.items() if p.startswith(prefix)}
        )
        self._unknown = [vocabulary[model.unk_token]]
        self._names = [t.content for t in tokenizer.get_added_tokens_decoder().values()]

    def ids(self, text: str) -> list[int] | None:
        """None for a text that is not plain."""
        # Some tokens are found by name before anything is cut, as [UNK].
        if _NOT_PLAIN.search(text) or any(name in text for name in self._names):
            return None
        words = _WORD_OR_MARK.findall(text.lower())
        whole = self._first.get
        ids = [whole(word, _NO_PIECE) for word in words]
        if _NO_PIECE not in ids:
            return ids
        pieces = ((i,) if i >= 0 else self._cut(w) for w, i in zip(words, ids, strict=True))
        return [id_ for some in pieces for id_ in some]

    def _cut(self, word: str) -> list[int]:
        """The longest piece first, again and again; one unknown token if something is left."""
        ids: list[int] = []
        known, start = self._first, 0
        while start < len(word) <= self._most_chars:
            longest = _NO_PIECE
            for end in range(start + 1, len(word) + 1):
                id_ = known.get(word[start:end])
                if id_ is None:
                    break
                if id_ >= 0:
                    longest, next_start = id_, end
            if longest < 0:
                return self._unknown
            ids.append(longest)
            known, start = self._next, next_start
        return ids or self._unknown


def _by_prefix(pieces: Mapping[str, int]) -> dict[str, int]:
    """Every beginning of a piece, so that a search for the longest one knows when to stop."""
    ids = {piece[:end]: _NO_PIECE for piece in pieces for end in range(1, len(piece))}
    ids.update(pieces)
    return ids


def _cuts_as_bert(tokenizer: Tokenizer) -> bool:
    """Whether what `_PlainText` takes for granted holds of it."""
    normalizer, model = tokenizer.normalizer, tokenizer.model
    return (
        isinstance(normalizer, BertNormalizer)
        and normalizer.lowercase
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(model, WordPiece)
        and model.token_to_id(model.unk_token) is not None
        and not any(t.normalized for t in tokenizer.get_added_tokens_decoder().values())
    )
