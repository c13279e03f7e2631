"""What an expert learns from: texts, each with a document that it should find.

Three kinds, all of one domain: a title; a sentence of the document (the inverse cloze task of Lee
et al. 2019), which needs neither titles nor judgements; and the queries of the training split with
the documents judged relevant. A tenth of the documents is held out, by hash of its id, to say when
to stop.

The document is taken whole, with its title and the sentence in it, because its vector is at hand
then: without them training costs another pass of the encoder and gains little
(docs/retrieval.md).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coe.retrieval.collection import Collection, Document

Kind = Literal["title", "sentence", "query"]

HELD_OUT_SHARE = 0.1
_LEAST_TEXT_CHARS = 50
_LEAST_SENTENCES = 3
_LEAST_WORDS = 4
_OPENING_WORDS = 8
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


@dataclass(frozen=True, slots=True)
class Pair:
    """An anchor and the document it should find."""

    anchor: str
    anchor_id: str
    """Pairs of one anchor are not each other's negatives."""
    document_id: str
    """Nor are those of one document."""
    kind: Kind
    is_held_out: bool = False


def pairs_of(collection: Collection, split: str | None = "train") -> list[Pair]:
    """The documents' own pairs and, unless None, those of one split's queries.

    No other query is looked at. A collection without that split has its documents alone.
    """
    pairs = [pair for document in collection.documents for pair in _of_document(document)]
    if split is not None and collection.has_split(split):
        pairs += _of_queries(collection.split(split))
    return pairs


def is_held_out(document_id: str) -> bool:
    return _share(f"held out {document_id}") < HELD_OUT_SHARE


def _of_document(document: Document) -> Iterable[Pair]:
    held_out = is_held_out(document.id)
    if document.title and len(document.text) >= _LEAST_TEXT_CHARS:
        yield Pair(document.title, f"{document.id} title", document.id, "title", held_out)
    for i, sentence in enumerate(sentences_of(document.text, document.id)):
        yield Pair(sentence, f"{document.id} {i}", document.id, "sentence", held_out)


def sentences_of(text: str, seed: str) -> list[str]:
    """A text's first sentence and one drawn by hash.

    Where there are no sentences to tell apart, the first words stand for one.
    """
    sentences = [s for s in _SENTENCE_END.split(text) if len(s.split()) >= _LEAST_WORDS]
    if len(sentences) < _LEAST_SENTENCES:
        words = text.split()
        if len(words) < 2 * _OPENING_WORDS:
            return []
        return [" ".join(words[:_OPENING_WORDS])]
    return [sentences[0], sentences[1 + int(_share(seed) * (len(sentences) - 1))]]


def _of_queries(collection: Collection) -> list[Pair]:
    return [
        Pair(query.text, f"query {query.id}", document_id, "query")
        for query, relevant in zip(collection.queries, collection.judgements(), strict=True)
        for document_id in relevant
    ]


def _share(text: str) -> float:
    """In [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def count_kinds(pairs: Sequence[Pair]) -> dict[str, int]:
    """How many pairs of each kind are trained on, and how many are held out."""
    counts = {"title": 0, "sentence": 0, "query": 0, "held_out": 0}
    for pair in pairs:
        counts["held_out" if pair.is_held_out else pair.kind] += 1
    return counts
