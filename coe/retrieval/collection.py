"""Collections to search: documents, queries, and which documents answer which query.

Values only. How they are read from files is decided in `coe.eval.beir`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coe.errors import DatasetError, nearest
from coe.types import Query


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found."""

    id: str
    text: str
    title: str = ""

    @property
    def whole(self) -> str:
        """Title and text, which is what is searched."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """One domain's documents and judged queries."""

    name: str
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    """Their category is the collection's name."""
    splits: tuple[str, ...]
    """The split of each query."""
    qrels: Mapping[str, Mapping[str, int]] = field(repr=False)
    """Query id → document id → relevance above 0; a document not listed is not relevant."""

    def split(self, name: str) -> Collection:
        """The queries of one split, over all documents. A split without queries raises."""
        rows = [i for i, split in enumerate(self.splits) if split == name]
        if not rows:
            known = sorted(set(self.splits))
            guess = nearest(name, known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise DatasetError(
                f"{self.name}: has no split {name!r} (it has {', '.join(known) or 'none'}){hint}"
            )
        return replace(
            self,
            queries=tuple(self.queries[i] for i in rows),
            splits=tuple(self.splits[i] for i in rows),
        )

    def has_split(self, name: str) -> bool:
        return name in self.splits

    def judgements(self) -> list[Mapping[str, int]]:
        """The relevant documents of each query, in the order of the queries."""
        return [self.qrels[query.id] for query in self.queries]

    def digest(self) -> str:
        """A short name for exactly these documents, queries and judgements."""
        hasher = hashlib.sha256(self.name.encode())
        for document in self.documents:
            hasher.update(f"\x1e{document.id}\x1f{document.title}\x1f{document.text}".encode())
        for query, split in zip(self.queries, self.splits, strict=True):
            told = sorted(self.qrels[query.id].items())
            hasher.update(f"\x1d{query.id}\x1f{split}\x1f{query.text}\x1f{told}".encode())
        return hasher.hexdigest()[:16]


def whole_texts(documents: Sequence[Document]) -> list[str]:
    return [document.whole for document in documents]
