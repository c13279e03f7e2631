"""A guard: a fitted router that is not better than the best single expert is not used.

LLMRouterBench and the recorded answers agree that many learned routers do not beat the expert
with the best mean, and that in a pool with one clear leader none can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import ConfigError, DatasetError
from coe.outcomes import OutcomeTable
from coe.routers.folds import FitsScorer, held_out
from coe.routing import Encoder, Explainer, FloatArray, Scorer
from coe.types import Query

MIN_QUERIES = 50
"""Fewer held-out queries than these say nothing of a router."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a fitted router is used, and from what that was concluded."""

    is_kept: bool
    best_single: str
    gain: float
    """Mean held-out outcome of routing less that of the best single expert."""
    n_queries: int
    means: Mapping[str, float]
    """Each expert's mean on the queries it was judged on, 0 where it has none."""

    @classmethod
    def of(cls, held_out: FloatArray, table: OutcomeTable, confidence: float = 0.9) -> Verdict:
        """A paired bootstrap over queries of top-1 routing.

        `held_out` (n_queries, n_experts): scores of the table's queries, none fitted on.
        `confidence` is the share of resamples in which the router must be the better one. The
        best single expert is the one of the table itself, which leans a little to its side. Only
        queries on which both it and the routed expert were measured count.
        """
        if held_out.shape != table.scores.shape:
            raise DatasetError(
                f"held-out scores have shape {held_out.shape}, the table {table.scores.shape}"
            )
        best_single = table.best_single()
        routed = table.scores[np.arange(table.n_queries), held_out.argmax(axis=1)]
        gains = routed - table.column(best_single)
        gains = gains[~np.isnan(gains)]
        means = np.nan_to_num(table.means()).tolist()
        return cls(
            is_kept=share_positive(gains) >= confidence,
            best_single=best_single,
            gain=float(gains.mean()) if len(gains) else 0.0,
            n_queries=len(gains),
            means=dict(zip(table.expert_ids, means, strict=True)),
        )

    @classmethod
    def of_manifest(cls, kept: Mapping[str, Any]) -> Verdict:
        """What `manifest` gave; `ConfigError` for anything else."""
        try:
            return cls(**kept)
        except TypeError as error:
            raise ConfigError(
                f"damaged guard in a router artifact ({error}); fit it again with `coe fit`"
            ) from None

    def manifest(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        beats = "beats" if self.is_kept else "does not surely beat"
        return (
            f"on {self.n_queries} held-out queries routing {beats} {self.best_single} alone "
            f"({self.gain:+.1%})"
        )


class JudgedScorer:
    """A scorer while the verdict on it is good; else every query gets the experts' means.

    `scorer` is the inner one.
    """

    def __init__(self, scorer: Scorer, verdict: Verdict) -> None:
        self.scorer = scorer
        self._means = np.array([verdict.means[expert_id] for expert_id in scorer.expert_ids])
        self.name = scorer.name if verdict.is_kept else "best-single"
        self.expert_ids = scorer.expert_ids
        self.verdict = verdict

    @property
    def is_kept(self) -> bool:
        return self.verdict.is_kept

    @property
    def gain(self) -> float:
        return self.verdict.gain

    def score(self, queries: Sequence[Query]) -> FloatArray:
        if self.verdict.is_kept:
            return self.scorer.score(queries)
        return np.tile(self._means, (len(queries), 1))

    def explain(self, query: Query) -> tuple[str, ...]:
        verdict = self.verdict
        if not verdict.is_kept:
            return (f"{verdict}, so experts are ranked by their overall record",)
        told = self.scorer.explain(query) if isinstance(self.scorer, Explainer) else ()
        return (*told, str(verdict))


class GuardedScorer(JudgedScorer):
    """A scorer judged here and now, on held-out scores."""

    def __init__(
        self, scorer: Scorer, held_out: FloatArray, table: OutcomeTable, confidence: float = 0.9
    ) -> None:
        """Takes what `Verdict.of` takes."""
        super().__init__(scorer, Verdict.of(held_out, table, confidence))


def comparable(table: OutcomeTable) -> NDArray[np.bool_]:
    """(n_queries,) whether two experts or more were measured, without which none is better."""
    several: NDArray[np.bool_] = (~np.isnan(table.scores)).sum(axis=1) >= 2
    return several


def judged(held_out: FloatArray, table: OutcomeTable) -> Verdict | None:
    """The verdict on the comparable queries; None if they are fewer than `MIN_QUERIES`."""
    rows = comparable(table)
    if rows.sum() < MIN_QUERIES:
        return None
    verdict = Verdict.of(held_out[rows], table.rows(rows))
    return verdict if verdict.n_queries >= MIN_QUERIES else None


def share_positive(gains: FloatArray, seed: int = 0) -> float:
    """Share of bootstrap resamples whose mean is above 0; 0 where there is nothing to resample."""
    if len(gains) == 0:
        return 0.0
    distinct, counts = np.unique(gains, return_counts=True)
    n = len(gains)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=_RESAMPLES)
    return float((drawn @ distinct > 1e-12).mean())


def held_out_as_asked(
    fit: FitsScorer, table: OutcomeTable, encoder: Encoder, seed: int = 0
) -> FloatArray:
    """(n_queries, n_experts) scores from the other folds, of queries whose category nobody tells.

    So a gateway asks. A scorer that reads nothing but the category is told it: otherwise it
    would be judged without having routed.
    """

    def predict(mask: NDArray[np.bool_]) -> FloatArray:
        scorer = fit(table if mask.all() else table.rows(~mask), encoder)
        asked = table.rows(mask)
        scores = scorer.score(asked.without_categories().queries)
        if (scores == scores[0]).all() and asked.categories:
            return scorer.score(asked.queries)
        return scores

    groups = [query.text for query in table.queries]
    return held_out(table.n_queries, seed, predict, groups=groups)
