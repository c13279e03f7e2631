"""How far back each use of an expert reaches, for all uses of a long trace at once.

The GiB of distinct experts used since an expert's last use decide whether LRU still has it
(Mattson's stack distance, with sizes). What was used twice in between must count once: that
is a weighted count of inversions, done here one bit of the position at a time, in
O(n log n) whole-array operations where a Fenwick tree would take one step for each.
"""

from __future__ import annotations

import numpy as np

from coe.outcomes import FloatArray, IntArray


def lru_reach_gib(experts: IntArray, sizes_gib: FloatArray) -> FloatArray:
    """(n,) GiB that LRU needs for each use to be a hit; infinite for a first use."""
    n = len(experts)
    previous = previous_uses(experts)
    weights = sizes_gib[experts].astype(float)
    before = np.concatenate([[0.0], np.cumsum(weights)])
    again = np.flatnonzero(previous >= 0)
    since = previous[again]
    # Everything used in between, less what was used again in between.
    between = before[again] - before[since + 1]
    repeated = larger_before(since, weights[again], n)
    reach: FloatArray = np.full(n, np.inf)
    reach[again] = between - repeated + weights[again]
    return reach


def previous_uses(experts: IntArray) -> IntArray:
    """(n,) position of the last use of the same expert; -1 for a first use."""
    order = np.argsort(experts, kind="stable")
    same = np.diff(experts[order]) == 0
    previous: IntArray = np.full(len(experts), -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def next_uses(experts: IntArray) -> IntArray:
    """(n,) position of the next use of the same expert; the length of the trace if none."""
    backwards = previous_uses(experts[::-1])[::-1]
    n = len(experts)
    return np.where(backwards < 0, n, n - 1 - backwards)


def larger_before(values: IntArray, weights: FloatArray, limit: int) -> FloatArray:
    """(n,) total weight of the earlier entries whose value is larger; values below `limit`.

    By bits, the highest first: within entries that agree on all higher bits and stand in their
    original order, those with a one are larger than those with a zero.
    """
    keys, total = values.astype(np.int64), np.zeros(len(values))
    if not len(keys):
        return total
    order, weights = np.arange(len(values)), weights.astype(float)
    for bit in reversed(range(max(1, int(limit).bit_length()))):
        ones = (keys >> bit & 1).astype(bool)
        firsts = np.flatnonzero(np.diff(keys >> (bit + 1), prepend=-1))
        lengths = np.diff(np.append(firsts, len(keys)))
        sums = np.cumsum(weights * ones)
        sums -= np.repeat(np.where(firsts > 0, sums[firsts - 1], 0.0), lengths)
        total[~ones] += sums[~ones]
        # Zeros before ones within each block, both in the order they had.
        n_ones = np.cumsum(ones)
        n_ones -= np.repeat(np.where(firsts > 0, n_ones[firsts - 1], 0), lengths)
        starts = np.repeat(firsts, lengths)
        n_zeros = np.arange(len(keys)) - starts + 1 - n_ones
        halves = np.repeat(n_zeros[np.append(firsts[1:], len(keys)) - 1], lengths)
        places = starts + np.where(ones, halves + n_ones, n_zeros) - 1
        for array in (keys, weights, total, order):
            array[places] = array.copy()
    sorted_back = np.empty_like(total)
    sorted_back[order] = total
    return sorted_back
