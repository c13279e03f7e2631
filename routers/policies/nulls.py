"""Null experts: places in the ranking that call nobody, so that easy queries call fewer.

AdaMoE (arXiv 2406.13233) adds null experts to a layer's top-k. For whole models a null expert is
"stop here": m copies with one score, theta, are ranked with the real ones and only the real ones
among the top k are called. Two things are ours: the best real expert is always called, for a
query must be answered, and theta is fitted to a mean number of calls instead of being learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError
from coe.experts import ExpertPool
from coe.routers.policies.ranking import at_least, best_first, named
from coe.routing import FloatArray


@dataclass(frozen=True, slots=True)
class NullExperts:
    """The real ones among the k best of the pool and m null experts of score theta."""

    k: int
    theta: float
    m: int | None = None
    """None stands for k, which lets a query call as few as one; fewer keep k - m at least."""

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        at_least("m", 0 if self.m is None else self.m, 0)

    @property
    def name(self) -> str:
        return f"null-experts-{self.k}-{self.theta:g}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        order = best_first(scores)
        # A null expert stands behind real ones of its score, as the last of the pool would.
        n_better = int((scores >= self.theta).sum())
        n_called = min(self.k, max(n_better, least_calls(self.k, self.m)))
        return named(order[:n_called], pool)


def least_calls(k: int, m: int | None) -> int:
    """Experts called where every null expert outranks the real ones."""
    return max(1, k - (k if m is None else m))


def fit_theta(scores: FloatArray, k: int, mean_calls: float, m: int | None = None) -> float:
    """The lowest theta under which at most `mean_calls` experts are called on average.

    `scores` (n_queries, n_experts) of queries like those to come. Raises `ConfigError` if k and m
    force more calls than that.
    """
    n, n_experts = scores.shape
    least, most = min(least_calls(k, m), n_experts), min(k, n_experts)
    if mean_calls < least:
        raise ConfigError(
            f"{mean_calls:g} calls a query is below {least}, the least that k = {k} and m = {m} "
            "call; lower k or raise m",
            key="mean_calls",
        )
    ranked = -np.sort(-scores, axis=1)
    # Lowering theta past one of these calls one more expert on one query.
    steps = np.append(-np.sort(-ranked[:, least:most].ravel()), -np.inf)
    n_allowed = int(np.floor((mean_calls - least) * n + 1e-9))
    if n_allowed >= len(steps) - 1:
        return float(scores.min())
    # The first step too many must stay below theta, and with it all steps equal to it.
    return float(np.nextafter(steps[n_allowed], np.inf))
