"""Which experts to keep at the edge: exact choice of a subset under monotone budgets.

The coarse level of MoE² (arXiv 2501.09410): the value of a set never falls and its costs never
fall when an expert is added, so the best set is a maximal one within the budgets. The paper says
that it uses discrete monotonic optimisation; the two searches here are our reading of that (its
text could not be read), each exact: branch-reduce-bound over boxes of sets, and the polyblock
method, which for sets is a best-first walk down from the full one. Use the first; the second
visits many times more sets and stays as a check.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np

from coe.errors import ConfigError
from coe.outcomes import BoolArray, FloatArray
from coe.routers.edge_costs import Limits

TIE = 1e-12
"""Values closer than this are equal."""
MOST_EXHAUSTIVE = 20


class TopValue:
    """Value of a set: mean over queries of the sum of its k highest scores, over k.

    With k = 1 it is the score of the best member, the value of a Top-1 gate that knows the scores.
    With gate weights times outcomes as scores and k = n_experts it is the gate-weighted value.
    Either never falls when an expert is added, as scores may not be negative. A mixture whose
    weights are normalised again within the set does not have this property.
    """

    def __init__(self, scores: FloatArray, k: int = 1) -> None:
        if scores.ndim != 2 or 0 in scores.shape:
            raise ConfigError(f"scores of shape {scores.shape}; give (n_queries, n_experts)")
        if not np.isfinite(scores).all() or (scores < 0).any():
            raise ConfigError(
                "scores must be finite and not negative; fill in what is not measured"
            )
        if not 1 <= k <= scores.shape[1]:
            raise ConfigError(f"k is {k}; give 1 to {scores.shape[1]}, the number of experts")
        self._scores = np.asfortranarray(scores, dtype=np.float64)
        self._k = k

    @property
    def n_experts(self) -> int:
        return int(self._scores.shape[1])

    def of(self, members: BoolArray) -> float:
        return float(self._top(members, self._k).sum() / self._scale)

    def without_each(self, members: BoolArray) -> FloatArray:
        """(n_experts,) value of the set less each member, in one pass.

        What is not a member has the value of the set.
        """
        top = self._top(members, self._k + 1)  # ascending; column 0 is the best left out
        kept, spare = top[:, -self._k :], top[:, :1] if top.shape[1] > self._k else 0.0
        # A score among the k kept falls to the best one left out; ties cost nothing either way.
        losses = np.maximum(self._scores - spare, 0.0).sum(axis=0)
        values: FloatArray = (kept.sum() - np.where(members, losses, 0.0)) / self._scale
        return values

    def with_each(self, members: BoolArray) -> FloatArray:
        """(n_experts,) value of the set with each expert added, in one pass."""
        top = self._top(members, self._k)
        # With room to spare every score counts whole, else what it has over the lowest kept.
        lowest = top[:, :1] if top.shape[1] == self._k else 0.0
        gains = np.maximum(self._scores - lowest, 0.0).sum(axis=0)
        values: FloatArray = (top.sum() + np.where(members, 0.0, gains)) / self._scale
        return values

    @property
    def _scale(self) -> int:
        return len(self._scores) * self._k

    def _top(self, members: BoolArray, k: int) -> FloatArray:
        """(n_queries, min(k, n_members)) highest scores of the set, the lowest of them first."""
        scores = self._scores[:, members]
        n = scores.shape[1]
        if k == 1 and n:
            best: FloatArray = scores.max(axis=1, keepdims=True)
            return best
        if n <= k:
            return np.sort(scores, axis=1)
        top: FloatArray = np.partition(scores, range(n - k, n), axis=1)[:, n - k :]
        return top


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The experts that a search kept."""

    members: BoolArray
    """(n_experts,)"""
    value: float
    usage: FloatArray
    """(n_limits,) in the order of `Limits.names`."""
    n_nodes: int
    """Sets or boxes that were looked at."""

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(int(i) for i in np.flatnonzero(self.members))


def selection(
    members: BoolArray, value: TopValue, limits: Limits, n_nodes: int, trim: bool = True
) -> Selection:
    """The set as a selection, less the members that add no value, the dearest of them first."""
    kept = members.copy()
    while trim and kept.sum() > 1:
        idle = np.flatnonzero(kept & (value.without_each(kept) >= value.of(kept) - TIE))
        if not len(idle):
            break
        alone = limits.usage_with_each(np.zeros(len(kept), bool))[idle]
        shares = (alone / np.maximum(limits.limits, 1e-300)).sum(axis=1)
        kept[idle[int(shares.argmax())]] = False
    return Selection(kept, value.of(kept), limits.usage(kept), n_nodes)


def exhaustive(value: TopValue, limits: Limits) -> Selection:
    """The best of all sets, by looking at each. Refuses more than 20 experts."""
    n = value.n_experts
    if n > MOST_EXHAUSTIVE:
        raise ConfigError(f"{n} experts have 2^{n} sets; use branch_reduce_bound")
    limits.affordable()
    bits = np.arange(n)
    best, best_value = np.zeros(n, bool), -1.0
    for code in range(1, 2**n):
        members = (code >> bits) % 2 == 1
        if limits.admits(members) and (reached := value.of(members)) > best_value + TIE:
            best, best_value = members, reached
    return selection(best, value, limits, 2**n - 1)


def polyblock(value: TopValue, limits: Limits) -> Selection:
    """Best-first from the full set: the first set within the budgets bounds all that wait.

    Visits exponentially many sets when budgets are tight; meant as a check on the other search.
    """
    start = limits.affordable()
    order = count()
    heap = [(-value.of(start), next(order), start)]
    seen = {start.tobytes()}
    n_nodes = 0
    while True:  # Ends: single experts are within the budgets, and all of them wait at last.
        _, _, members = heappop(heap)
        n_nodes += 1
        if limits.admits(members):
            return selection(members, value, limits, n_nodes)
        less = value.without_each(members)
        for i in np.flatnonzero(members):
            child = members.copy()
            child[i] = False
            key = child.tobytes()
            if key not in seen and child.any():
                seen.add(key)
                heappush(heap, (-float(less[i]), next(order), child))


def branch_reduce_bound(value: TopValue, limits: Limits) -> Selection:
    """The best set, by splitting boxes of sets between a forced and an allowed one.

    Experts that break a budget alone are dropped first. A box's bound is the value of all that
    it allows. Raises `RoutingError` if no expert is within the budgets.
    """
    return _BoxSearch(value, limits).run()


@dataclass(frozen=True, slots=True, eq=False)
class _Box:
    """All sets that hold `forced` and lie inside `allowed`."""

    forced: BoolArray
    allowed: BoolArray


class _BoxSearch:
    def __init__(self, value: TopValue, limits: Limits) -> None:
        self._value = value
        self._limits = limits
        self._best = np.zeros(value.n_experts, bool)
        self._best_value = -1.0
        self._order = count()
        self._heap: list[tuple[float, int, _Box]] = []

    def run(self) -> Selection:
        start = self._limits.affordable()
        self._push(_Box(np.zeros_like(start), start), self._value.of(start))
        n_nodes = 0
        while self._heap and -self._heap[0][0] > self._best_value + TIE:
            _, _, box = heappop(self._heap)
            n_nodes += 1
            reduced = self._reduced(box)
            if reduced is not None:
                self._split(reduced)
        return selection(self._best, self._value, self._limits, n_nodes)

    def _reduced(self, box: _Box) -> _Box | None:
        """The box without sets that break a budget or cannot beat the best; None if empty."""
        forced, allowed = box.forced, box.allowed
        if not self._limits.admits(forced):
            return None
        while True:
            keeps = self._limits.keeps(self._limits.usage_with_each(forced))
            fewer = allowed & (keeps | forced)
            if self._value.of(fewer) <= self._best_value + TIE:
                return None
            needed = self._value.without_each(fewer) <= self._best_value + TIE
            more = forced | (fewer & needed)
            if (more == forced).all():
                return _Box(forced, fewer)
            if not self._limits.admits(more):
                return None
            forced, allowed = more, fewer

    def _split(self, box: _Box) -> None:
        bound = self._value.of(box.allowed)
        if self._limits.admits(box.allowed):
            self._offer(box.allowed, bound)
            return
        self._complete(box)
        less = self._value.without_each(box.allowed)
        open_ = box.allowed & ~box.forced
        i = int(np.where(open_, bound - less, -np.inf).argmax())
        taken, left = box.forced.copy(), box.allowed.copy()
        taken[i], left[i] = True, False
        self._push(_Box(taken, box.allowed), bound)
        self._push(_Box(box.forced, left), float(less[i]))

    def _complete(self, box: _Box) -> None:
        """An incumbent: adds to the forced set what gains most while the budgets hold."""
        members = box.forced.copy()
        while True:
            keeps = self._limits.keeps(self._limits.usage_with_each(members))
            fits = box.allowed & ~members & keeps
            if not fits.any():
                break
            reached = self._value.with_each(members)
            members[int(np.where(fits, reached, -np.inf).argmax())] = True
        if members.any():
            self._offer(members, self._value.of(members))

    def _offer(self, members: BoolArray, reached: float) -> None:
        if members.any() and reached > self._best_value:
            self._best, self._best_value = members, reached

    def _push(self, box: _Box, bound: float) -> None:
        if box.allowed.any() and bound > self._best_value + TIE:
            heappush(self._heap, (-bound, next(self._order), box))
