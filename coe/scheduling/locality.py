"""How much a trace of experts repeats itself, and what memory would do about it.

Local routing consistency: how many of a segment's requests a few experts cover, be they the
best for that very segment or for the one before it. Miss curves: what LRU and Belady's rule
would have loaded with so much memory. All of it in linear or log-linear time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError
from coe.outcomes import FloatArray, IntArray
from coe.scheduling.expert_trace import ExpertTrace
from coe.scheduling.stack_distance import lru_reach_gib, next_uses


@dataclass(frozen=True, slots=True)
class SegmentHits:
    """Share of the requests that a cache of so many experts hits, mean over segments."""

    n_experts: int
    own: float
    """With the best experts of the segment itself: what any cache changed once a segment can
    reach."""
    previous: float
    """With the best experts of the segment before; the first segment is left out."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """What so much memory would have done for the trace."""

    gib: float
    lru_misses: int
    lru_load_s: float
    belady_misses: int
    belady_load_s: float
    """Furthest next use leaves first: the least there is for experts of one size and cost."""
    saved_s_per_gib: float
    """Load seconds under LRU that each GiB more than in the row before has saved; NaN in the
    first."""


@dataclass(frozen=True, slots=True)
class Locality:
    """What `analyze` finds."""

    n_requests: int
    n_experts: int
    segments: tuple[SegmentHits, ...]
    memory: tuple[MemoryRow, ...]

    def worth_buying(self, load_s_per_gib: float) -> float:
        """The most GiB of which every step saved at least so many load seconds a GiB."""
        gib = self.memory[0].gib
        for row in self.memory[1:]:
            if row.saved_s_per_gib < load_s_per_gib:
                break
            gib = row.gib
        return gib

    def rows(self) -> list[tuple[str, ...]]:
        """How much memory is worth buying, as a table to print, its head first."""
        head = ("GiB", "LRU misses", "LRU load s", "Belady misses", "Belady load s", "s saved/GiB")
        return [
            head,
            *(
                (
                    f"{row.gib:g}",
                    f"{row.lru_misses / self.n_requests:.1%}",
                    f"{row.lru_load_s:.0f}",
                    f"{row.belady_misses / self.n_requests:.1%}",
                    f"{row.belady_load_s:.0f}",
                    "" if np.isnan(row.saved_s_per_gib) else f"{row.saved_s_per_gib:.1f}",
                )
                for row in self.memory
            ),
        ]

    def segment_rows(self) -> list[tuple[str, ...]]:
        """Segment hit rates as a table to print, its head first."""
        head = ("experts", "best of segment", "best of the one before")
        return [
            head,
            *((str(s.n_experts), f"{s.own:.1%}", f"{s.previous:.1%}") for s in self.segments),
        ]


def analyze(
    trace: ExpertTrace,
    gib: Mapping[str, float],
    load_s: Mapping[str, float],
    budgets_gib: Sequence[float] = (),
    segment: int = 256,
) -> Locality:
    """Everything about one trace, given what each of its experts holds and takes to load.

    Budgets default to eight steps from the largest expert to all of them. Raises `ConfigError`
    for an expert without a size or load time, and for a budget below the largest expert.
    """
    sizes, loads = _column(trace, gib, "size"), _column(trace, load_s, "load time")
    budgets = sorted(budgets_gib) or np.linspace(sizes.max(), sizes.sum(), 8).tolist()
    if budgets[0] < sizes.max() - 1e-9:
        raise ConfigError(
            f"a budget of {budgets[0]:g} GiB is less than the largest expert, {sizes.max():g} GiB"
        )
    return Locality(
        len(trace),
        len(trace.expert_ids),
        tuple(segment_hits(trace.experts, len(trace.expert_ids), segment)),
        tuple(_memory_rows(trace.experts, sizes, loads, budgets)),
    )


def segment_hits(experts: IntArray, n_experts: int, segment: int = 256) -> list[SegmentHits]:
    """Hit rates for caches of one expert, two, and so on. A shorter last segment counts less."""
    index = np.arange(len(experts)) // segment
    n_segments = int(index[-1]) + 1
    counts = np.bincount(index * n_experts + experts, minlength=n_segments * n_experts)
    counts = counts.reshape(n_segments, n_experts)
    best = np.argsort(-counts, axis=1, kind="stable")
    own = np.take_along_axis(counts, best, axis=1).sum(axis=0).cumsum() / len(experts)
    later = counts[1:].sum()
    covered = np.take_along_axis(counts[1:], best[:-1], axis=1).sum(axis=0).cumsum()
    previous = covered / later if later else np.full(n_experts, np.nan)
    return [SegmentHits(c + 1, float(own[c]), float(previous[c])) for c in range(n_experts)]


def lru_misses(
    experts: IntArray, sizes_gib: FloatArray, budgets_gib: Sequence[float]
) -> list[IntArray]:
    """(n_experts,) misses of each expert under LRU, for each budget.

    LRU evicts until the newcomer fits, so what is resident is always a prefix of the experts
    by last use: one pass gives all budgets at once, unequal sizes included.
    """
    reach = lru_reach_gib(experts, sizes_gib)
    return [
        np.bincount(experts[reach > budget + 1e-9], minlength=len(sizes_gib))
        for budget in budgets_gib
    ]


def belady_misses(experts: IntArray, sizes_gib: FloatArray, budget_gib: float) -> IntArray:
    """(n_experts,) misses if those leave whose next use is furthest, until the newcomer fits.

    No rule has fewer for experts of one size. For unequal sizes it is a good rule and no bound.
    """
    changes = np.flatnonzero(np.diff(experts, prepend=-1))
    events = experts[changes]
    following = next_uses(events)
    misses = [0] * len(sizes_gib)
    sizes = sizes_gib.tolist()
    upcoming = [-1] * len(sizes)  # -1: not resident.
    free = budget_gib + 1e-9
    for expert, use in zip(events.tolist(), following.tolist(), strict=True):
        if upcoming[expert] < 0:
            misses[expert] += 1
            while free < sizes[expert]:
                victim = upcoming.index(max(upcoming))
                upcoming[victim] = -1
                free += sizes[victim]
            free -= sizes[expert]
        upcoming[expert] = use
    return np.array(misses)


def _memory_rows(
    experts: IntArray, sizes: FloatArray, loads_s: FloatArray, budgets: Sequence[float]
) -> list[MemoryRow]:
    rows: list[MemoryRow] = []
    for budget, lru in zip(budgets, lru_misses(experts, sizes, budgets), strict=True):
        belady = belady_misses(experts, sizes, budget)
        lru_s = float(lru @ loads_s)
        saved = np.nan
        if rows and budget > rows[-1].gib:
            saved = (rows[-1].lru_load_s - lru_s) / (budget - rows[-1].gib)
        rows.append(
            MemoryRow(
                float(budget),
                int(lru.sum()),
                lru_s,
                int(belady.sum()),
                float(belady @ loads_s),
                float(saved),
            )
        )
    return rows


def _column(trace: ExpertTrace, values: Mapping[str, float], what: str) -> FloatArray:
    missing = [e for e in trace.expert_ids if e not in values]
    if missing:
        raise ConfigError(f"no {what} is known of {', '.join(missing)}, which the trace names")
    return np.array([values[e] for e in trace.expert_ids], dtype=float)
