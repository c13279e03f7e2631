"""The category table: an expert is expected to do as it did in the query's category.

The simplest form of the two-step routing of Composition of Experts (category first, then
category → expert), with one rate per category and expert instead of a solved mapping. Where
the caller names no category it is guessed from the most similar fitted queries, and the
category rows are mixed by the share of votes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from coe.index import NearestNeighbors

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.profiles import Profile
from coe.routers.artifacts import Artifact, Manifest
from coe.routing import Encoder, FloatArray
from coe.types import Query

VOTERS = 15
"""How many similar queries vote on an unnamed category."""


class CategoryScorer:
    """Each expert's rate of success in the query's category."""

    name = "category"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.categories: tuple[str, ...] = tuple(artifact.manifest.settings["categories"])
        self._row_of = {category: i for i, category in enumerate(self.categories)}
        self._rates = artifact.arrays["rates"]
        self._labels = artifact.arrays["labels"]
        self._index = NearestNeighbors(artifact.arrays["vectors"].astype(np.float32))

    @classmethod
    def fit(
        cls, table: OutcomeTable, encoder: Encoder, prior_trials: float = 0.0
    ) -> CategoryScorer:
        """`prior_trials` shrinks a category's rate towards the expert's overall one."""
        labelled = table.rows(np.array([q.category is not None for q in table.queries], bool))
        if labelled.n_queries == 0:
            raise DatasetError("the category table needs queries whose category is known")
        categories = labelled.categories
        names = [query.category or "" for query in labelled.queries]
        profiles = [
            Profile.of(id_, zip(names, labelled.column(id_).tolist(), strict=True))
            for id_ in table.expert_ids
        ]
        rates = [[p.rate(c, prior_trials) for p in profiles] for c in categories]
        vectors = encoder.encode([query.text for query in labelled.queries])
        manifest = Manifest(
            cls.name,
            table.expert_ids,
            table.digest(),
            labelled.n_queries,
            encoder.name,
            {"categories": list(categories), "prior_trials": prior_trials},
        )
        arrays = {
            "rates": np.array(rates),
            "labels": np.array([categories.index(name) for name in names], dtype=np.int32),
            "vectors": vectors.astype(np.float16),
        }
        return cls(Artifact(manifest, arrays), encoder)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        scores: FloatArray = self.category_shares(queries) @ self._rates
        return scores

    def category_shares(self, queries: Sequence[Query]) -> FloatArray:
        """(n_queries, n_categories), rows sum to 1; a named category is certain."""
        shares = np.zeros((len(queries), len(self.categories)))
        unnamed: list[int] = []
        for i, query in enumerate(queries):
            row = self._row_of.get(query.category or "")
            if row is None:
                unnamed.append(i)
            else:
                shares[i, row] = 1.0
        if unnamed:
            shares[unnamed] = self._voted_shares([queries[i].text for i in unnamed])
        return shares

    def explain(self, query: Query) -> tuple[str, ...]:
        shares = self.category_shares([query])[0]
        top = int(np.argmax(shares))
        how = "given" if query.category in self._row_of else f"guessed, {shares[top]:.0%} of votes"
        best = int(np.argmax(self._rates[top]))
        return (
            f"category {self.categories[top]!r} ({how}), where {self.expert_ids[best]} "
            f"scored {self._rates[top, best]:.0%}",
        )

    def _voted_shares(self, texts: Sequence[str]) -> FloatArray:
        _, neighbors = self._index.search(self._encoder.encode(texts), VOTERS)
        votes = self._labels[neighbors]  # (n_texts, n_voters)
        shares: FloatArray = (votes[:, :, None] == np.arange(len(self.categories))).mean(axis=1)
        return shares
