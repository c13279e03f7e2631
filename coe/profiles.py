"""An expert's record by skill: trials and wins, and the rates they support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials and the score won in them. Scores lie in [0, 1], so wins may be fractional."""

    trials: int = 0
    wins: float = 0.0

    def with_outcome(self, score: float) -> Tally:
        """One trial more; NaN means not measured and counts for nothing."""
        return self if isnan(score) else Tally(self.trials + 1, self.wins + score)

    def rate(self, prior: float = 0.5, prior_trials: float = 0.0) -> float:
        """Share won, shrunk towards `prior` as if it had been seen `prior_trials` times.

        Without trials and without a prior weight it is `prior` itself.
        """
        weight = self.trials + prior_trials
        return prior if weight == 0 else (self.wins + prior * prior_trials) / weight


@dataclass(frozen=True, slots=True)
class Profile:
    """What one expert did on queries that need each skill."""

    expert_id: str
    by_skill: Mapping[str, Tally]
    overall: Tally

    @classmethod
    def of(cls, expert_id: str, outcomes: Iterable[tuple[str, float]]) -> Profile:
        """Counts `(skill, score)` pairs; NaN scores are left out."""
        by_skill: dict[str, Tally] = {}
        overall = Tally()
        for skill, score in outcomes:
            by_skill[skill] = by_skill.get(skill, Tally()).with_outcome(score)
            overall = overall.with_outcome(score)
        return cls(expert_id, by_skill, overall)

    def rate(self, skill: str, prior_trials: float = 0.0) -> float:
        """Share won on one skill, shrunk towards the expert's own overall rate."""
        tally = self.by_skill.get(skill, Tally())
        return tally.rate(self.overall.rate(), prior_trials)
