"""Routers entered into a comparison: scores of the queries judged, probabilities where wanted.

A policy that only ranks sees the scorer's own scores. One that reads scores as probabilities, or
whose numbers are tuned, sees them mapped by Platt's sigmoid, fitted on predictions for training
queries that were held out; these cost further fits, so they are made once and only if needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coe.eval.harness import Judged
from coe.eval.judging import judged_policy, verdict_named
from coe.eval.recorded import RecordedBenchmark
from coe.experts import ExpertPool
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.calibrated import reads_probabilities
from coe.routers.calibration import Calibration
from coe.routers.folds import FitsScorer, held_out_scores
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies.catalog import PolicySpec, policy_of
from coe.routers.policies.tuning import VoteKind, fitted_vote, tuned
from coe.routing import Encoder, Scorer
from coe.types import Query

_TUNED_FOR: Mapping[str, VoteKind] = {
    "majority": "majority",
    "weighted": "independent",
    "learned": "learned",
    "first": "majority",
}


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """Scores as probabilities of being right."""

    fitted_on: FloatArray
    """(n_fitted, n_experts) of training queries, each held out from the fit that scored it."""
    judged: FloatArray
    """(n_judged, n_experts) of the queries judged, by the scorer fitted on all of training."""


@dataclass(slots=True, eq=False)
class Entrant:
    """One fitted router on one benchmark."""

    name: str
    scores: FloatArray
    """(n_judged, n_experts) as the scorer gives them."""
    make_chances: Callable[[], Chances]
    """Called at most once."""
    _chances: Chances | None = None
    _votes: dict[str, LearnedVote] = field(default_factory=dict)

    def chances(self) -> Chances:
        if self._chances is None:
            self._chances = self.make_chances()
        return self._chances

    def learned_vote(self, spec: PolicySpec, table: OutcomeTable, pool: ExpertPool) -> LearnedVote:
        """Fitted on the training answers for this policy alone, and kept."""
        key = str(spec)
        if key not in self._votes:
            self._votes[key] = fitted_vote(spec, table, self.chances().fitted_on, pool)
        return self._votes[key]


def judge(
    entrant: Entrant,
    spec: PolicySpec,
    aggregator: str,
    benchmark: RecordedBenchmark,
    fitted_on: OutcomeTable,
) -> Judged:
    """One policy over the entrant's scores; what is to be tuned is tuned on training alone.

    `benchmark` and `fitted_on` have answers that can be compared (`coe.eval.judging.comparable`).
    """
    pool = benchmark.pool
    is_calibrated = reads_probabilities(spec, aggregator)
    scores = entrant.chances().judged if is_calibrated else entrant.scores
    chosen = spec
    if not spec.is_tuned:
        chosen = tuned(spec, fitted_on, entrant.chances().fitted_on, pool, _TUNED_FOR[aggregator])
    model = entrant.learned_vote(chosen, fitted_on, pool) if aggregator == "learned" else None
    verdict = verdict_named(aggregator, pool, model)
    policy = policy_of(chosen, model)
    per_query = judged_policy(policy, scores, benchmark.table, pool, verdict)
    return Judged(
        router=entrant.name,
        policy=str(spec),
        per_query=per_query,
        tuned=None if spec.is_tuned else str(chosen),
        aggregator=aggregator if (per_query.calls > 1).any() else None,
        is_calibrated=is_calibrated,
    )


def held_out_chances(
    fit: FitsScorer,
    fitted_on: OutcomeTable,
    encoder: Encoder,
    scores: FloatArray,
    tells_category: bool = True,
) -> Chances:
    """Five fits on four fifths each, and the map that they give for `scores`.

    `tells_category` False scores held-out queries as those to be judged are: without a category.
    """

    def untold(table: OutcomeTable, encoder: Encoder) -> Scorer:
        return Untold(fit(table, encoder))

    held_out = held_out_scores(fit if tells_category else untold, fitted_on, encoder)
    calibration = Calibration.fit("platt", held_out, fitted_on.scores)
    return Chances(calibration.probabilities(held_out), calibration.probabilities(scores))


class Untold:
    """A scorer that is never told a query's category."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.name = scorer.name
        self.expert_ids = scorer.expert_ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return self._scorer.score([replace(query, category=None) for query in queries])
