"""Pilot embeddings: the mean of the queries that one expert answers best, data set by data set.

RouterRetriever (arXiv 2409.02685, algorithm 1 and section 3): at most one pilot for each data
set and expert. The paper scores an expert by the mean similarity to its pilots; the authors'
code takes the expert of the single nearest pilot. Both are here. A query's category stands for
its data set. How equally good experts are told apart was left open by the paper; see `Ties`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError, PoolMismatch, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routing import Encoder, FloatArray
from coe.types import Query

IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

Rule = Literal["mean", "nearest"]
RULES: tuple[Rule, ...] = ("mean", "nearest")
Ties = Literal["home", "share", "first"]
"""Who is best where several are: `home`, the one of them that is best in the query's data set;
`share`, all of them; `first`, the first column, as the authors' argmax does. The first two leave
out queries that every measured expert answers equally well, which say nothing about experts."""
TIES: tuple[Ties, ...] = ("home", "share", "first")
NO_PILOT = -1.0
"""Score of an expert without any pilot: no cosine is lower."""


class PilotsScorer:
    """Cosine of the query to the pilots of each expert. Scores are no probabilities."""

    name = "pilots"

    def __init__(self, artifact: Artifact, encoder: Encoder) -> None:
        artifact.check(artifact.manifest.expert_ids, encoder.name)
        self._artifact = artifact
        self._encoder = encoder
        self.expert_ids = artifact.manifest.expert_ids
        self.rule: Rule = artifact.manifest.settings["rule"]
        self._pilots = artifact.arrays["pilots"]  # (n_pilots, dim) unit rows
        self._owners = artifact.arrays["owners"]  # (n_pilots,) column of the expert

    @classmethod
    def fit(
        cls,
        table: OutcomeTable,
        encoder: Encoder,
        rule: Rule = "nearest",
        ties: Ties = "home",
        least_share: float = 0.0,
    ) -> PilotsScorer:
        """Raises `DatasetError` where no query tells two experts apart.

        `least_share`: a pilot needs so much of its data set's queries that tell experts apart; 0,
        as in the paper, makes one of a single query that an expert won by chance. The largest
        group of a data set always has its pilot.
        """
        if rule not in RULES or ties not in TIES:
            raise ConfigError(
                f"unknown rule {rule!r} or ties {ties!r} (known: {', '.join(RULES)}; "
                f"{', '.join(TIES)})"
            )
        best = best_experts(table, ties)
        if not best.any():
            raise DatasetError(
                "no query tells the experts apart, so there is nothing to make pilots of"
            )
        vectors = encoder.encode([query.text for query in table.queries])
        best = _supported(table, best, least_share)
        made = [_pilots_of(table, vectors, best[:, e]) for e in range(len(table.expert_ids))]
        owners = np.repeat(np.arange(len(made)), [len(pilots) for pilots in made])
        settings = {
            "rule": rule,
            "ties": ties,
            "least_share": least_share,
            "n_pilots": len(owners),
        }
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, encoder.name, settings
        )
        arrays = {"pilots": np.vstack(made), "owners": owners.astype(np.int32)}
        return cls(Artifact(manifest, arrays), encoder)

    def without_expert(self, expert_id: str) -> PilotsScorer:
        """The same router without one expert: its pilots are dropped, nothing is fitted again."""
        if expert_id not in self.expert_ids:
            raise UnknownExpert(expert_id, self.expert_ids)
        rest = tuple(id_ for id_ in self.expert_ids if id_ != expert_id)
        if not rest:
            raise ConfigError(f"{expert_id!r} is the only expert; a router needs at least one")
        return self._with_library(rest, {id_: self._pilots_of(id_) for id_ in rest})

    def with_expert(self, expert_id: str, table: OutcomeTable) -> PilotsScorer:
        """The same router with one expert more; the pilots of the others stay as they are.

        The table scores the newcomer beside all present experts and gives the order of the
        columns. With the table it was fitted on, adding undoes removing bit for bit.
        """
        if expert_id not in table.expert_ids:
            raise UnknownExpert(expert_id, table.expert_ids)
        others = set(table.expert_ids) - {expert_id}
        if others != set(self.expert_ids):
            raise PoolMismatch(
                "pilots",
                ", ".join(sorted(self.expert_ids)),
                ", ".join(sorted(others)),
                "give a table of these experts and the new one",
            )
        column = table.expert_ids.index(expert_id)
        settings = self._artifact.manifest.settings
        every = best_experts(table, settings["ties"])
        best = _supported(table, every, settings.get("least_share", 0.0))[:, column]
        vectors = self._encoder.encode([query.text for query in table.queries])
        library = {id_: self._pilots_of(id_) for id_ in self.expert_ids}
        library[expert_id] = _pilots_of(table, vectors, best)
        return self._with_library(table.expert_ids, library)

    def artifact(self) -> Artifact:
        return self._artifact

    def score(self, queries: Sequence[Query]) -> FloatArray:
        vectors = self._encoder.encode([query.text for query in queries]).astype(np.float64)
        similarities = vectors @ self._pilots.T.astype(np.float64)
        scores = np.full((len(vectors), len(self.expert_ids)), NO_PILOT)
        for e in np.unique(self._owners):
            own = similarities[:, self._owners == e]
            scores[:, e] = own.mean(axis=1) if self.rule == "mean" else own.max(axis=1)
        return scores

    def explain(self, query: Query) -> tuple[str, ...]:
        scores = self.score([query])[0]
        best = int(np.argmax(scores))
        n_own = int((self._owners == best).sum())
        how = "mean cosine to" if self.rule == "mean" else "nearest of all pilots, one of"
        return (f"{self.expert_ids[best]}: {how} its {n_own} pilot embeddings, {scores[best]:.2f}",)

    def _pilots_of(self, expert_id: str) -> FloatArray:
        own: FloatArray = self._pilots[self._owners == self.expert_ids.index(expert_id)]
        return own

    def _with_library(
        self, expert_ids: tuple[str, ...], library: dict[str, FloatArray]
    ) -> PilotsScorer:
        manifest = self._artifact.manifest
        counts = [len(library[id_]) for id_ in expert_ids]
        settings = {**manifest.settings, "n_pilots": sum(counts)}
        arrays = {
            "pilots": np.vstack([library[id_] for id_ in expert_ids]),
            "owners": np.repeat(np.arange(len(expert_ids)), counts).astype(np.int32),
        }
        changed = replace(manifest, expert_ids=expert_ids, settings=settings)
        return PilotsScorer(Artifact(changed, arrays), self._encoder)


def best_experts(table: OutcomeTable, ties: Ties) -> BoolArray:
    """(n_queries, n_experts) true where the expert counts as the best of the query."""
    measured = ~np.isnan(table.scores)
    scores = np.where(measured, table.scores, -np.inf)
    top = scores.max(axis=1, keepdims=True)
    best: BoolArray = measured & (scores == top)
    if ties == "first":
        earliest: BoolArray = best & (np.cumsum(best, axis=1) == 1)
        return earliest
    best &= ((scores < top) & measured).any(axis=1, keepdims=True)
    if ties == "share":
        return best
    preferred = np.zeros(best.shape, dtype=bool)
    for rows in _groups(table):
        at_home = np.nan_to_num(table.rows(rows).means(), nan=-1.0)
        winners = np.where(best[rows], at_home, -np.inf).argmax(axis=1)
        preferred[rows, winners] = best[rows].any(axis=1)
    return preferred


def _supported(table: OutcomeTable, best: BoolArray, least_share: float) -> BoolArray:
    """Without an expert's wins in data sets where it won too few of those that were won."""
    kept = best.copy()
    for rows in _groups(table):
        wins = best[rows].sum(axis=0)
        least = min(least_share * best[rows].any(axis=1).sum(), wins.max())
        kept[np.ix_(rows, np.flatnonzero(wins < least))] = False
    return kept


def _groups(table: OutcomeTable) -> list[IntArray]:
    """Rows of each data set, by name; queries of none are a data set of their own."""
    names = np.array([query.category or "" for query in table.queries])
    return [np.flatnonzero(names == name) for name in np.unique(names)]


def _pilots_of(table: OutcomeTable, vectors: FloatArray, best: BoolArray) -> FloatArray:
    """(n_pilots, dim) unit means of one expert's best queries, one for each data set with any."""
    chosen = [rows[best[rows]] for rows in _groups(table)]
    means = [vectors[rows].astype(np.float64).mean(axis=0) for rows in chosen if len(rows)]
    if not means:
        return np.zeros((0, vectors.shape[1]), dtype=np.float32)
    stacked = np.stack(means)
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
    unit: FloatArray = np.divide(stacked, lengths, out=np.zeros_like(stacked), where=lengths > 0)
    return unit.astype(np.float32)
