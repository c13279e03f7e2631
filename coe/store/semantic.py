"""Responses kept for requests that mean the same: opt-in, since it can be wrong.

Embeddings come from the caller. A tenant's entries are searched only for that tenant, and a near
text is taken for the same ask only if `coe.store.likeness` finds no difference that matters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import faiss
import numpy as np
from numpy.typing import NDArray

from coe.store.cache import CachedResponse
from coe.store.likeness import Essentials
from coe.store.settings import SemanticSettings

Vector = NDArray[np.float32]
_CANDIDATES = 8
_GROWTH = 64
_DEFAULT = SemanticSettings()


@dataclass(frozen=True, slots=True)
class SemanticHit:
    """A response to a text that was near enough."""

    response: CachedResponse
    similarity: float
    text: str
    """What was asked then."""


@dataclass(frozen=True, slots=True)
class _Entry:
    scope: str
    text: str
    essentials: Essentials
    response: CachedResponse
    until: float


@dataclass(slots=True)
class _Shelf:
    """One tenant's entries: a ring, in which the oldest makes room for the newest."""

    vectors: Vector  # (n_slots, dim)
    entries: list[_Entry | None] = field(default_factory=list)
    next: int = 0


class SemanticCache:
    """In the memory of this process."""

    def __init__(
        self,
        dim: int,
        settings: SemanticSettings = _DEFAULT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dim = dim
        self._settings = settings
        self._monotonic = monotonic
        self._shelves: dict[str, _Shelf] = {}

    def __len__(self) -> int:
        return sum(entry is not None for shelf in self._shelves.values() for entry in shelf.entries)

    def get(self, tenant: str, scope: str, text: str, vector: Vector) -> SemanticHit | None:
        """The nearest that may answer, or None.

        `scope`: a `cache_key` of all of the request but its text; only the same will do.
        """
        shelf = self._shelves.get(tenant)
        if shelf is None or not shelf.entries:
            return None
        asked = self._checked(vector)
        now = self._monotonic()
        essentials = Essentials.of(text)
        for similarity, slot in _nearest(shelf.vectors[: len(shelf.entries)], asked):
            if similarity < self._settings.threshold:
                return None
            entry = shelf.entries[slot]
            if entry is None or entry.scope != scope:
                continue
            if now >= entry.until:
                self._clear(shelf, slot)
            elif entry.essentials.is_same_ask(essentials, is_strict=self._settings.is_strict):
                return SemanticHit(entry.response, similarity, entry.text)
        return None

    def put(
        self, tenant: str, scope: str, text: str, vector: Vector, response: CachedResponse
    ) -> None:
        """Keeps it in the place of the tenant's oldest, if there are too many."""
        kept = self._checked(vector)
        shelf = self._shelves.pop(tenant, None)
        if shelf is None:
            shelf = _Shelf(
                np.zeros((min(_GROWTH, self._settings.max_entries), self._dim), np.float32)
            )
        self._shelves[tenant] = shelf
        if len(self._shelves) > self._settings.max_tenants:
            del self._shelves[next(iter(self._shelves))]
        until = self._monotonic() + self._settings.ttl_s
        entry = _Entry(scope, text, Essentials.of(text), response, until)
        slot = self._slot(shelf)
        shelf.entries[slot] = entry
        shelf.vectors[slot] = kept

    def _slot(self, shelf: _Shelf) -> int:
        """A fresh one, while there may be more, and else that of the oldest."""
        most = self._settings.max_entries
        slot = len(shelf.entries)
        if slot == most:
            slot, shelf.next = shelf.next, (shelf.next + 1) % most
            return slot
        shelf.entries.append(None)
        if slot == len(shelf.vectors):
            grown = np.zeros((min(2 * slot, most), self._dim), np.float32)
            grown[:slot] = shelf.vectors
            shelf.vectors = grown
        return slot

    def _checked(self, vector: Vector) -> Vector:
        if vector.shape != (self._dim,):
            raise ValueError(f"the vector has shape {vector.shape}, not ({self._dim},)")
        return np.ascontiguousarray(vector, np.float32)

    def _clear(self, shelf: _Shelf, slot: int) -> None:
        shelf.entries[slot] = None
        shelf.vectors[slot] = 0.0


def _nearest(vectors: Vector, asked: Vector) -> list[tuple[float, int]]:
    """Similarity and row of the nearest few, best first."""
    k = min(_CANDIDATES, len(vectors))
    # Waking a thread pool costs more than one query's scan.
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        found, slots = faiss.knn(asked[None], vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    finally:
        faiss.omp_set_num_threads(before)
    return [(float(s), int(slot)) for s, slot in zip(found[0], slots[0], strict=True)]
