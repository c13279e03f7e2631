"""Routing by category: the plain table, and Composition of Experts.

Both route in two steps, category first and then category → expert, because averages over a
category hold still where the best expert of a single query does not (see `coe.routers.jitter`).
`CategoryScorer` keeps one rate per category and expert. `CompositionScorer` is Composition of
Experts (arXiv 2412.01868): it also labels queries of unknown category, solves the mapping under
size budgets (`coe.routers.mapping`) and sends queries it is unsure of to a general expert. The
paper's abstract and reviews were readable, its equations were not: the program, the entropy of
the vote as the measure of doubt and every number are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.category_votes import (
    VOTERS,
    CategoryVotes,
    IntArray,
    category_labels,
    category_shares,
    normalized_entropy,
)
from coe.routers.composition_fit import GENERAL, CompositionFit, SeedLabels, category_rates
from coe.routers.mapping import SizeBudget
from coe.routing import Encoder, FloatArray
from coe.types import Query

__all__ = ["GENERAL", "CategoryScorer", "CompositionScorer", "SeedLabels", "SizeBudget"]


class CategoryScorer:
    """Each expert's rate of success in the query's category."""

    name = "category"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.categories: tuple[str, ...] = tuple(artifact.manifest.settings["categories"])
        self._rates = artifact.arrays["rates"]
        self._votes = CategoryVotes(
            artifact.arrays["vectors"].astype(np.float32),
            artifact.arrays["labels"],
            len(self.categories),
            VOTERS,
        )

    @classmethod
    def fit(
        cls, table: OutcomeTable, encoder: Encoder, prior_trials: float = 0.0
    ) -> CategoryScorer:
        """`prior_trials` shrinks a category's rate towards the expert's overall one."""
        labelled = table.rows(np.array([q.category is not None for q in table.queries], bool))
        if labelled.n_queries == 0:
            raise DatasetError("the category table needs queries whose category is known")
        categories = labelled.categories
        labels = category_labels(labelled.queries, categories)
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
            "rates": category_rates(labelled, labels, len(categories), prior_trials),
            "labels": labels.astype(np.int32),
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

        def guess(rows: IntArray) -> FloatArray:
            return self._votes.shares(self._encoder.encode([queries[i].text for i in rows]))

        return category_shares(queries, self.categories, guess)

    def explain(self, query: Query) -> tuple[str, ...]:
        shares = self.category_shares([query])[0]
        top = int(np.argmax(shares))
        given = query.category in self.categories
        how = "given" if given else f"guessed, {shares[top]:.0%} of votes"
        best = int(np.argmax(shares @ self._rates))
        return (
            f"category {self.categories[top]!r} ({how}), where {self.expert_ids[best]} "
            f"scored {self._rates[top, best]:.0%}",
        )


class CompositionScorer:
    """The expert that the solved mapping gives the query's category, the general one in doubt.

    Scores are ranks in three bands: 1 to 2 for the mapped expert, 0 to 1 for the others in use,
    -1 to 0 for those the budget closed; within a band, the rate in the category.
    """

    name = "composition"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        settings = artifact.manifest.settings
        self.expert_ids = artifact.manifest.expert_ids
        self.categories: tuple[str, ...] = tuple(settings["categories"])
        self.max_doubt = float(settings["max_doubt"])
        self.general_expert = str(settings["general_expert"])
        self._banded = artifact.arrays["banded"]  # (n_categories + 1, n_experts), last: general
        self._votes = CategoryVotes(
            artifact.arrays["vectors"].astype(np.float32),
            artifact.arrays["labels"],
            len(self.categories),
            VOTERS,
        )

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        budget: SizeBudget | None = None,
        general: str | None = None,
        seeds: SeedLabels | None = None,
    ) -> CompositionScorer:
        """`general` None takes the best of the experts in use, on average over the table.

        The limit of doubt is chosen on held-out queries, half of them of a category that was
        held out with them. Raises `ConfigError` where no mapping fits the budget.
        """
        fit = CompositionFit(table, encoder, budget or SizeBudget(), general, seeds)
        return cls(fit.artifact(cls.name), encoder)

    @property
    def mapping(self) -> dict[str, str]:
        """The expert of each category, and of "general"."""
        best = self._banded.argmax(axis=1)
        names = (*self.categories, GENERAL)
        return {name: self.expert_ids[e] for name, e in zip(names, best, strict=True)}

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        rows, _ = self._rows(queries)
        scores: FloatArray = self._banded[rows]
        return scores

    def explain(self, query: Query) -> tuple[str, ...]:
        rows, doubt = self._rows([query])
        expert_id = self.expert_ids[int(self._banded[rows[0]].argmax())]
        if rows[0] == len(self.categories):
            return (
                f"doubt about the category is {doubt[0]:.2f}, above {self.max_doubt:.2f}: "
                f"the general expert {expert_id}",
            )
        how = "given" if query.category in self.categories else f"voted, doubt {doubt[0]:.2f}"
        return (f"category {self.categories[rows[0]]!r} ({how}) is mapped to {expert_id}",)

    def _rows(self, queries: Sequence[Query]) -> tuple[IntArray, FloatArray]:
        """Row of `_banded` for each query, and the doubt that decided it."""

        def guess(rows: IntArray) -> FloatArray:
            return self._votes.shares(self._encoder.encode([queries[i].text for i in rows]))

        shares = category_shares(queries, self.categories, guess)
        doubt = normalized_entropy(shares)
        named = np.array([query.category in self.categories for query in queries], dtype=bool)
        trusted = named | (doubt <= self.max_doubt)
        return np.where(trusted, shares.argmax(axis=1), len(self.categories)), doubt
