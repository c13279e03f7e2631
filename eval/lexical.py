"""BM25, the baseline that no embedding takes part in."""

from __future__ import annotations

from collections.abc import Sequence

from coe.errors import ConfigError, install_hint
from coe.retrieval.collection import Document, whole_texts

K1, B = 0.9, 0.4
"""As Pyserini's BEIR baselines have them."""


class Bm25:
    """Words of two letters or more but for English stop words, unstemmed."""

    def __init__(self, documents: Sequence[Document]) -> None:
        try:
            import bm25s
        except ImportError:
            raise ConfigError(f"BM25 needs bm25s: {install_hint('retrieval')}") from None
        self._ids = [document.id for document in documents]
        self._tokenize = bm25s.tokenize
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        self._index.index(self._tokens(whole_texts(documents)), show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> list[dict[str, float]]:
        """The scores of the k best documents of each query; of fewer, where fewer score."""
        k = min(k, len(self._ids))
        rows, scores = self._index.retrieve(
            self._tokens(queries), k=k, show_progress=False, n_threads=0
        )
        return [
            {self._ids[row]: float(score) for row, score in zip(*hit, strict=True) if score > 0}
            for hit in zip(rows, scores, strict=True)
        ]

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        tokens: list[list[str]] = self._tokenize(
            list(texts), stopwords="english", return_ids=False, show_progress=False
        )
        return tokens
