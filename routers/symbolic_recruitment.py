"""Recruiting as Symbolic-MoE does: experts are drawn from probabilities, then rare ones trimmed.

k = 3 draws with replacement, and over a whole batch an expert with less than 5 % of all draws
gives them up to the others (arXiv 2503.05641, section 3.3, so that no model is loaded for a
handful of queries). The released code draws but never trims.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coe.experts import ExpertPool
from coe.routing import FloatArray

Counts = NDArray[np.int64]

K = 3
MIN_SHARE = 0.05
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Recruit:
    """k draws with replacement from the scores as probabilities; the distinct experts.

    Those drawn more often come first, then those with the better score. An expert drawn twice is
    called once, where the paper takes two samples of it: a decision names experts, not calls. The
    draw depends on the seed and the row of scores alone, so that equal queries are routed alike.
    Scores below zero are shifted to start at zero; where no score is positive all are equal.
    """

    k: int = K
    seed: int = 0

    @property
    def name(self) -> str:
        return f"recruit-{self.k}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        # Rounded, so that the last bit of a sum does not decide who is drawn.
        row = np.round(np.asarray(scores, dtype=np.float64), _DIGITS) + 0.0
        key = hashlib.sha256(f"{self.seed}\x1f".encode() + row.tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:8], "big"))
        drawn = rng.multinomial(self.k, _normalised(row[None])[0])
        return recruited(drawn[None], row[None], pool.ids)[0]


def draw(probabilities: FloatArray, k: int = K, seed: int = 0) -> Counts:
    """(n_queries, n_experts) how often each expert is drawn; rows add up to k."""
    counts: Counts = np.random.default_rng(seed).multinomial(k, _normalised(probabilities))
    return counts


def trim(
    probabilities: FloatArray, k: int = K, min_share: float = MIN_SHARE, seed: int = 0
) -> Counts:
    """Draws for a batch, those of experts with less than `min_share` of all drawn again.

    Again means from the query's own probabilities of the experts that stay; a query that has
    none for them takes their shares of the batch. Which experts stay is decided once. If none
    would, as in a large pool drawn evenly, nothing is trimmed. (n_queries, n_experts); rows add
    up to k.
    """
    counts = draw(probabilities, k, seed)
    shares = counts.sum(axis=0) / max(counts.sum(), 1)
    stays = shares >= min_share
    if not stays.any() or stays.all():
        return counts
    kept = np.where(stays, counts, 0)
    left = np.where(stays, _normalised(probabilities), 0.0)
    left = np.where(left.any(axis=1, keepdims=True), left, np.where(stays, shares, 0.0))
    missing = k - kept.sum(axis=1)
    # Another stream than that of the first draw.
    again = np.random.default_rng([seed, 1]).multinomial(missing, _normalised(left))
    trimmed: Counts = kept + again
    return trimmed


def recruited(
    counts: Counts, probabilities: FloatArray, expert_ids: Sequence[str]
) -> list[tuple[str, ...]]:
    """The experts drawn for each query, most draws first, then the more probable."""
    orders = np.lexsort((-probabilities, -counts), axis=-1)
    return [
        tuple(expert_ids[i] for i in order if row[i])
        for order, row in zip(orders, counts, strict=True)
    ]


def _normalised(rows: FloatArray) -> FloatArray:
    """Rows that add up to 1, in double precision as multinomial demands."""
    weights = rows.astype(np.float64)
    weights -= np.minimum(weights.min(axis=-1, keepdims=True, initial=0.0), 0.0)
    weights = np.where(weights.any(axis=-1, keepdims=True), weights, 1.0)
    shares: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return shares
