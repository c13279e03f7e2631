"""A guard: a fitted router that is not better than the best single expert is not used.

LLMRouterBench and the recorded answers agree that many learned routers do not beat the expert
with the best mean, and that in a pool with one clear leader none can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import OutcomeTable
from coe.routing import Explainer, FloatArray, Scorer
from coe.types import Query

_RESAMPLES = 2000


class GuardedScorer:
    """A scorer while its held-out routing beats the best single expert; else that expert's means.

    The test is a paired bootstrap over queries of top-1 routing. The best single expert is the one
    of the validation table itself, which leans a little to its side.
    """

    def __init__(
        self, scorer: Scorer, held_out: FloatArray, table: OutcomeTable, confidence: float = 0.9
    ) -> None:
        """`held_out` (n_queries, n_experts): scores of the table's queries, none fitted on.

        `confidence` is the share of resamples in which the router must be the better one.
        """
        if held_out.shape != table.scores.shape:
            raise DatasetError(
                f"held-out scores have shape {held_out.shape}, the table {table.scores.shape}"
            )
        self._scorer = scorer
        self.name = scorer.name
        self.expert_ids = scorer.expert_ids
        self.best_single = table.best_single()
        routed = table.scores[np.arange(table.n_queries), held_out.argmax(axis=1)]
        gains = routed - table.column(self.best_single)
        gains = gains[~np.isnan(gains)]
        self.gain = float(gains.mean()) if len(gains) else 0.0
        """Mean held-out outcome of routing less that of the best single expert."""
        self.is_kept = bool(share_positive(gains) >= confidence)
        self._means = np.nan_to_num(table.means())
        beats = "beats" if self.is_kept else "does not surely beat"
        self.verdict = (
            f"on {len(gains)} held-out queries routing {beats} {self.best_single} alone "
            f"({self.gain:+.1%})"
        )

    def score(self, queries: Sequence[Query]) -> FloatArray:
        if self.is_kept:
            return self._scorer.score(queries)
        return np.tile(self._means, (len(queries), 1))

    def explain(self, query: Query) -> tuple[str, ...]:
        if not self.is_kept:
            return (f"{self.verdict}, so {self.best_single} answers everything",)
        told = self._scorer.explain(query) if isinstance(self._scorer, Explainer) else ()
        return (*told, self.verdict)


def share_positive(gains: FloatArray, seed: int = 0) -> float:
    """Share of bootstrap resamples whose mean is above 0; 0 where there is nothing to resample."""
    if len(gains) == 0:
        return 0.0
    distinct, counts = np.unique(gains, return_counts=True)
    n = len(gains)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=_RESAMPLES)
    return float((drawn @ distinct > 1e-12).mean())
