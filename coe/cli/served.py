"""The router that a configuration serves, judged as `coe fit` left it.

Under its own policy and aggregator nothing is fitted anew: it has its own scores, numbers and
vote. Under others it has what `coe fit` would make for them of the same scorer.
"""

from __future__ import annotations

from functools import cached_property

from coe.assembly import Fitting, spec_for
from coe.cli.progress import progress_bar
from coe.config import Config
from coe.eval.entrants import Chances, Entrant, judge
from coe.eval.harness import Judged
from coe.eval.judging import judged_policy, verdict_named
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.baselines import RandomScorer
from coe.routers.calibrated import CalibratedScorer
from coe.routers.calibration import Calibration
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import PolicySpec
from coe.routers.policies.guard import JudgedScorer
from coe.routers.symbolic import SymbolicScorer
from coe.routers.symbolic_keywords import keyword_expert
from coe.routing import Router, Scorer


class ServedRouter:
    """A router with its configuration, entered into a comparison."""

    def __init__(
        self,
        config: Config,
        router: Router,
        benchmark: RecordedBenchmark,
        fitted_on: OutcomeTable,
    ) -> None:
        """Both tables have answers that can be compared, and the columns of the whole pool."""
        self.config = config
        self.router = router
        self.benchmark = benchmark
        self.fitted_on = fitted_on

    def judge(self, spec: PolicySpec, aggregator: str) -> Judged:
        """Raises `ConfigError` for an aggregator that recorded answers cannot show."""
        is_own = spec == spec_for(self.config) and aggregator == self._aggregator
        if is_own:
            return self._as_served(spec)
        return judge(self.entrant, spec, aggregator, self.benchmark, self.fitted_on)

    @cached_property
    def entrant(self) -> Entrant:
        """Its scores for policies that it is not served with.

        Scores that are served calibrated are not calibrated again. A router that its guard does
        not use has the same scores for every query, as it has where it is served.
        """
        scorer = _kept(self.router.scorer)
        own = scorer.scorer if isinstance(scorer, CalibratedScorer) else scorer
        scores = own.score(self.benchmark.table.queries)

        def make() -> Chances:
            if isinstance(own, JudgedScorer):
                return Chances(own.score(self.fitted_on.queries), scores)
            held_out = self._held_out(own)
            calibration = Calibration.fit("platt", held_out, self.fitted_on.scores)
            judged = (
                calibration.probabilities(scores)
                if own is scorer
                else scorer.score(self.benchmark.table.queries)
            )
            return Chances(calibration.probabilities(held_out), judged)

        return Entrant(scorer.name, scores, make)

    @property
    def _aggregator(self) -> str:
        return self.config.router.aggregator.kind

    def _as_served(self, spec: PolicySpec) -> Judged:
        scorer, table, pool = self.router.scorer, self.benchmark.table, self.benchmark.pool
        parts = self._parts()
        vote = LearnedVote(parts["vote"]) if self._aggregator == "learned" else None
        verdict = verdict_named(self._aggregator, pool, vote)
        scores = scorer.score(table.queries)
        per_query = judged_policy(self.router.policy, scores, table, pool, verdict)
        return Judged(
            router=scorer.name,
            policy=str(spec),
            per_query=per_query,
            tuned=None if spec.is_tuned else parts["policy"].manifest.settings["tuned"],
            aggregator=self._aggregator if (per_query.calls > 1).any() else None,
            is_calibrated=isinstance(_kept(scorer), CalibratedScorer),
        )

    def _parts(self) -> dict[str, Artifact]:
        if isinstance(self.router.scorer, RandomScorer):
            return {}
        return dict(Artifact.load(self.config.router.artifact).parts)

    def _held_out(self, scorer: Scorer) -> FloatArray:
        """By fits like the one that is served: `symbolic` asks the expert that it asked then."""
        if isinstance(scorer, RandomScorer):
            return scorer.score(self.fitted_on.queries)
        annotator = None
        if isinstance(scorer, SymbolicScorer):
            annotator = keyword_expert(scorer.artifact().manifest)
        with progress_bar(f"held-out predictions of {scorer.name}", 1):
            return Fitting(self.config, self.fitted_on, annotator).held_out


def _kept(scorer: Scorer) -> Scorer:
    """Without the guard, unless that puts the best single expert in the router's place."""
    return scorer.scorer if isinstance(scorer, JudgedScorer) and scorer.is_kept else scorer
