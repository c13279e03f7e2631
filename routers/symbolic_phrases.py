"""Skills without asking anybody: a query's category, and the key phrases of its text.

Not of the paper, whose annotator is a language model (`annotators`): this one lets Symbolic-MoE
be fitted on recorded outcomes alone and route within a millisecond. Phrases are chosen by
tf-idf (Salton and Buckley 1988) among one and two words in a row that are no stop words; only
phrases that several of the fitted queries share can be skills. A category that was not fitted is
guessed by a vote of the nearest fitted queries, as `category` does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.index import NearestNeighbors
from coe.routers.annotators import Skills
from coe.routing import Encoder, FloatArray
from coe.types import Query

PHRASES = 5
"""Most phrases of one query."""
LEAST_QUERIES = 5
"""Fitted queries that must share a phrase; rarer ones say too little about an expert."""
VOTERS = 15

_WORD = re.compile(r"[a-z]{3,}")
_BREAK = re.compile(r"[.,;:!?()\[\]\n]")
_STOP_WORDS = """
    about above after again all also although always among and another any are because been
    before being below best between both but calculate can cannot choose consider could
    describe determine did does done each either else end every explain false find first five
    following for four from get give given gives had has have having her here him his how
    however into its itself just know known let like made make many may means might more most
    much must need neither next none nor not now number obtain off often one only option options
    other our out over own per please same second seven shall she should show since six some
    statement statements such suppose take ten than that the their them then there therefore
    these they this those three through thus too true two under until use used uses using very
    was well were what when where whether which while who whom whose why will with within
    without would yet you your
    """
_STOP = frozenset(_STOP_WORDS.split())


class PhraseAnnotator:
    """The category, named or guessed, then the key phrases. Fitted, repeatable, closed."""

    name = "phrases"
    is_open = False

    def __init__(
        self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: Encoder
    ) -> None:
        """From what `settings` and `arrays` gave, and the encoder it was fitted with."""
        self.settings = dict(settings)
        self.arrays = dict(arrays)
        self._encoder = encoder
        self._n_phrases = int(settings["n_phrases"])
        self.categories: tuple[str, ...] = tuple(settings["categories"])
        self._rarity: dict[str, float] = dict(
            zip(settings["phrases"], arrays["rarities"].tolist(), strict=True)
        )
        self._labels = arrays["labels"]
        vectors = arrays["vectors"]
        self._index = NearestNeighbors(vectors.astype(np.float32)) if len(vectors) else None

    @classmethod
    def fit(
        cls,
        queries: Sequence[Query],
        encoder: Encoder,
        n_phrases: int = PHRASES,
        least_queries: int = LEAST_QUERIES,
    ) -> PhraseAnnotator:
        """Learns which phrases are shared and how rare each is; 0 phrases leaves categories."""
        categories = sorted({q.category for q in queries if q.category is not None})
        shared: Counter[str] = Counter()
        if n_phrases:
            shared = Counter(phrase for query in queries for phrase in set(_phrases(query.text)))
        # A category that is also a phrase would mix two records under one name.
        known = {p: n for p, n in shared.items() if n >= least_queries and p not in categories}
        phrases = sorted(known)
        labelled = [query for query in queries if query.category is not None]
        vectors = encoder.encode([query.text for query in labelled])
        arrays: dict[str, NDArray[Any]] = {
            "rarities": np.array([log(len(queries) / known[p]) for p in phrases]),
            "labels": np.array([categories.index(str(q.category)) for q in labelled], np.int32),
            "vectors": vectors.astype(np.float16),
        }
        settings = {"n_phrases": n_phrases, "categories": categories, "phrases": phrases}
        return cls(settings, arrays, encoder)

    def annotate(self, queries: Sequence[Query]) -> tuple[Skills, ...]:
        categories = self._categories(queries)
        return tuple(
            ({} if category is None else {category: 1}) | self._key_phrases(query.text)
            for query, category in zip(queries, categories, strict=True)
        )

    def _categories(self, queries: Sequence[Query]) -> list[str | None]:
        known = set(self.categories)
        found = [q.category if q.category in known else None for q in queries]
        unnamed = [i for i, category in enumerate(found) if category is None]
        if unnamed and self._index is not None:
            vectors = self._encoder.encode([queries[i].text for i in unnamed])
            for i, category in zip(unnamed, self._guessed(self._index, vectors), strict=True):
                found[i] = category
        return found

    def _guessed(self, index: NearestNeighbors, vectors: FloatArray) -> list[str | None]:
        """The category most neighbours have, the alphabetically first of equals.

        None for the zero vector: a text of unknown words is near to nothing.
        """
        _, neighbors = index.search(vectors, VOTERS)
        votes = self._labels[neighbors]  # (n_queries, n_voters)
        counts = (votes[:, :, None] == np.arange(len(self.categories))).sum(axis=1)
        return [
            self.categories[top] if vector.any() else None
            for vector, top in zip(vectors, counts.argmax(axis=1), strict=True)
        ]

    def _key_phrases(self, text: str) -> dict[str, int]:
        """The phrases of highest tf-idf with their counts; equals in alphabetical order."""
        if not self._rarity:
            return {}
        counts = Counter(phrase for phrase in _phrases(text) if phrase in self._rarity)
        best = sorted(counts, key=lambda phrase: (-counts[phrase] * self._rarity[phrase], phrase))
        return {phrase: counts[phrase] for phrase in best[: self._n_phrases]}


def _phrases(text: str) -> list[str]:
    """Words and pairs of neighbouring words, lower-cased; neither spans a stop word or a stop."""
    found: list[str] = []
    for part in _BREAK.split(text.lower()):
        previous = ""
        for word in _WORD.findall(part):
            if word in _STOP:
                previous = ""
                continue
            found.append(word)
            if previous:
                found.append(f"{previous} {word}")
            previous = word
    return found
