"""Domains as the base encoder sees them, and the experts trained on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Collection
from coe.retrieval.pairs import Pair, count_kinds, pairs_of
from coe.retrieval.retriever import Library
from coe.retrieval.training import PairVectors, Recipe, Trained, train_adapter
from coe.routing import Encoder
from coe.types import Query

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Instance:
    """A query with its judged documents, on which experts are compared for the router."""

    query: Query
    relevant: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """One collection, encoded once."""

    collection: Collection
    library: Library
    pairs: tuple[Pair, ...]
    anchors: FloatArray
    """(n_pairs, dim)."""

    @classmethod
    def of(cls, collection: Collection, base: Encoder, split: str | None = "train") -> Domain:
        """`split`: whose queries are learned from; None: the documents alone."""
        pairs = tuple(pairs_of(collection, split))
        return cls(
            collection,
            Library(collection.documents, base),
            pairs,
            base.encode([pair.anchor for pair in pairs]),
        )

    @property
    def name(self) -> str:
        return self.collection.name

    def vectors(self, recipe: Recipe) -> PairVectors:
        rows = {id_: row for row, id_ in enumerate(self.library.ids)}
        found = np.array([rows[pair.document_id] for pair in self.pairs], dtype=np.intp)
        return PairVectors.of(self.pairs, self.anchors, self.library.vectors[found], recipe)

    def instances(self, split: str, most_held_out: int) -> list[Instance]:
        """The judged queries of a split; without any, pairs held out, each with its document."""
        if self.collection.has_split(split):
            part = self.collection.split(split)
            return [Instance(*told) for told in zip(part.queries, part.judgements(), strict=True)]
        held_out = [pair for pair in self.pairs if pair.is_held_out][:most_held_out]
        return [
            Instance(Query(p.anchor, p.anchor_id, self.name), {p.document_id: 1}) for p in held_out
        ]


def train_expert(domain: Domain, base: str, recipe: Recipe) -> Trained:
    """The expert of one domain, from that domain alone."""
    return _trained([domain], base, recipe)


def train_multitask(domains: Sequence[Domain], base: str, recipe: Recipe) -> Trained:
    """One expert from all domains together, with the same recipe: what experts are held against."""
    return _trained(domains, base, recipe)


def _trained(domains: Sequence[Domain], base: str, recipe: Recipe) -> Trained:
    started = time.perf_counter()
    trained = train_adapter(
        PairVectors.joined([domain.vectors(recipe) for domain in domains]), base, recipe
    )
    facts = {
        "domains": [domain.name for domain in domains],
        "pairs": count_kinds([pair for domain in domains for pair in domain.pairs]),
        "epochs": trained.epochs,
        "held_out_loss": [round(loss, 4) for loss in (trained.losses[0], min(trained.losses))],
        "train_s": round(time.perf_counter() - started, 1),
    }
    adapter = trained.adapter
    return replace(trained, adapter=LinearAdapter(adapter.matrix, adapter.offset, base, facts))
