"""The steps that fit a Composition of Experts: seeds, rates, mapping, limit of doubt.

What is published of arXiv 2412.01868 and what is our reading is told in `coe.routers.category`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.profiles import Profile
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.category_votes import (
    VOTERS,
    CategoryVotes,
    IntArray,
    category_labels,
    expanded_labels,
    normalized_entropy,
)
from coe.routers.folds import fold_numbers
from coe.routers.mapping import Mapping, SizeBudget, solve_mapping
from coe.routing import Encoder, FloatArray

GENERAL = "general"
"""The category of queries that belong to none."""


@dataclass(frozen=True, slots=True)
class SeedLabels:
    """How queries of unknown category are labelled before anything is fitted."""

    k: int = 5
    """Seeds that vote on each."""
    least_share: float = 0.6
    """Share of the votes that the winner needs."""
    keep_rest: bool = False
    """Whether the others become the category "general"; otherwise they are left out."""


class CompositionFit:
    """The steps of one fit, which share labels, vectors and budget."""

    def __init__(
        self,
        table: OutcomeTable,
        encoder: Encoder,
        budget: SizeBudget,
        general: str | None,
        seeds: SeedLabels | None,
    ) -> None:
        if general is not None and general not in table.expert_ids:
            raise UnknownExpert(general, table.expert_ids)
        if not table.categories:
            raise DatasetError("a composition needs seed queries whose category is known")
        seeds = seeds or SeedLabels()
        vectors = encoder.encode([query.text for query in table.queries]).astype(np.float32)
        names = table.categories
        labels = expanded_labels(
            vectors, category_labels(table.queries, names), len(names), seeds.k, seeds.least_share
        )
        if seeds.keep_rest and (labels < 0).any():
            names = names if GENERAL in names else (*names, GENERAL)
            labels = np.where(labels < 0, names.index(GENERAL), labels)
        kept = labels >= 0
        self.source, self.encoder_name = table, encoder.name
        self.table, self.labels, self.vectors = table.rows(kept), labels[kept], vectors[kept]
        self.categories, self.budget, self.general = names, budget, general

    def artifact(self, name: str) -> Artifact:
        rows = np.arange(self.table.n_queries)
        rates, mapping, general = self._plan(rows)
        settings = {
            "categories": list(self.categories),
            "general_expert": self.table.expert_ids[general],
            "max_doubt": self._max_doubt(),
            "quality": mapping.quality,
            "total_size": mapping.total_size,
            "average_active": mapping.average_active,
            "n_seeds": sum(query.category is not None for query in self.source.queries),
        }
        manifest = Manifest(
            name,
            self.table.expert_ids,
            self.source.digest(),
            len(rows),
            self.encoder_name,
            settings,
        )
        arrays = {
            "banded": _banded(rates, mapping, general),
            "labels": self.labels.astype(np.int32),
            "vectors": self.vectors.astype(np.float16),
        }
        return Artifact(manifest, arrays)

    def _plan(self, rows: IntArray) -> tuple[FloatArray, Mapping, int]:
        """Rates (the last row is overall), the mapping, and the column of the general expert."""
        table, labels = self.table.rows(rows), self.labels[rows]
        rates = category_rates(table, labels, len(self.categories), prior_trials=1.0)
        shares = np.bincount(labels, minlength=len(self.categories)) / len(labels)
        mapping = solve_mapping(self.budget.problem(rates, shares, table.expert_ids))
        overall = np.nan_to_num(table.means())
        if self.general is not None:
            general = table.expert_ids.index(self.general)
        else:
            general = max(mapping.open_experts, key=lambda e: (overall[e], -e))
        return np.vstack([rates, overall]), mapping, general

    def _max_doubt(self) -> float:
        """The limit that brings most on held-out queries; the highest of equals."""
        n = self.table.n_queries
        folds = fold_numbers(n, seed=0)
        held = [folds == fold for fold in range(int(folds.max()) + 1)]
        held += [self.labels == label for label in range(len(self.categories))]
        doubts: list[FloatArray] = [np.zeros(0)]
        gains: list[FloatArray] = [np.zeros(0)]
        for mask in held:
            if mask.any() and not mask.all():
                doubt, gain = self._gains(mask)
                doubts.append(doubt)
                gains.append(gain)
        return best_limit(np.concatenate(doubts), np.concatenate(gains))

    def _gains(self, held: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
        """Doubt of each held-out query, and what trusting the vote brings over doubting it."""
        rest = np.flatnonzero(~held)
        _, mapping, general = self._plan(rest)
        votes = CategoryVotes(self.vectors[rest], self.labels[rest], len(self.categories), VOTERS)
        shares = votes.shares(self.vectors[held])
        mapped = np.array(mapping.expert_of)[shares.argmax(axis=1)]
        scores = self.table.scores[held]
        gains = scores[np.arange(len(scores)), mapped] - scores[:, general]
        return normalized_entropy(shares), np.nan_to_num(gains)


def best_limit(doubts: FloatArray, gains: FloatArray) -> float:
    """The doubt up to which the summed gain is greatest; 1 where trusting all is as good."""
    if len(doubts) == 0:
        return 1.0
    order = np.argsort(doubts, kind="stable")
    # Limits lie between distinct doubts: equal doubts are trusted together.
    ends = np.flatnonzero(np.append(np.diff(doubts[order]) > 0, True))
    totals = np.concatenate([[0.0], np.cumsum(gains[order])[ends]])
    best = len(totals) - 1 - int(np.argmax(totals[::-1]))
    if best == len(totals) - 1:
        return 1.0
    # A little above the last doubt trusted; -1 doubts even a unanimous vote.
    return float(doubts[order][ends[best - 1]] + 1e-9) if best else -1.0


def _banded(rates: FloatArray, mapping: Mapping, general: int) -> FloatArray:
    closed = np.ones(rates.shape[1])
    closed[[*mapping.open_experts, general]] = 0.0
    banded = rates - closed
    banded[np.arange(len(rates)), [*mapping.expert_of, general]] += 1.0
    return banded


def category_rates(
    table: OutcomeTable, labels: IntArray, n_categories: int, prior_trials: float
) -> FloatArray:
    """(n_categories, n_experts) rates, shrunk towards each expert's overall one.

    An expert that was never measured has rate 0, so that nobody is sent to it unseen.
    """
    names = [str(label) for label in labels]
    rates = np.zeros((n_categories, len(table.expert_ids)))
    for e, id_ in enumerate(table.expert_ids):
        profile = Profile.of(id_, zip(names, table.column(id_).tolist(), strict=True))
        if profile.overall.trials:
            rates[:, e] = [profile.rate(str(c), prior_trials) for c in range(n_categories)]
    return rates
