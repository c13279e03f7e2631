"""How votes on recorded answers would go, under the vote that will be taken live.

A learned vote is asked about queries that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Protocol

import numpy as np

from coe.outcomes import BoolArray, IntArray, OutcomeTable
from coe.routers.ballots import Ballots, recorded_ballots
from coe.routers.folds import fold_numbers
from coe.routers.learned_vote import C, VoteWeights
from coe.routers.policies.adaptive import IndependentVotes
from coe.routing import FloatArray

VoteKind = Literal["learned", "independent", "majority"]
"""How an answer is elected: by a `LearnedVote`, by `IndependentVotes`, or by count."""
_SEED = 1
"""Another split than that of the held-out scores."""
_LEAST = 1e-6


class Judge(Protocol):
    """How likely each answer of many ballots is right."""

    def chances(self, ballots: Ballots) -> FloatArray:
        """(n, n_answers) probabilities; 0 for an answer nobody gave."""
        ...


class HeldOutJudge:
    """Learned votes, each asked about the fold that it was not fitted on."""

    def __init__(self, heard: Sequence[Ballots], right: IntArray, n_experts: int) -> None:
        self._folds = fold_numbers(len(right), _SEED)
        self._weights = []
        for fold in range(int(self._folds.max(initial=-1)) + 1):
            rest = self._folds != fold
            rest = rest if rest.any() else ~rest
            fitted = [ballots.rows(rest) for ballots in heard]
            self._weights.append(VoteWeights.fit(fitted, right[rest], n_experts, C))

    def chances(self, ballots: Ballots) -> FloatArray:
        n_answers = max(int(ballots.answers.max(initial=-1)) + 1, 1)
        chances = np.zeros((len(self._folds), n_answers))
        for fold, weights in enumerate(self._weights):
            held = self._folds == fold
            told = weights.chances(ballots.rows(held))[:, :-1]
            chances[held, : told.shape[1]] = told
        return chances


class IndependentJudge:
    """`IndependentVotes` for many queries at once."""

    def __init__(self, model: IndependentVotes) -> None:
        self._model = model

    def chances(self, ballots: Ballots) -> FloatArray:
        n_options = self._model.n_options
        p = np.clip(ballots.chances, _LEAST, 1 - _LEAST)
        gains = self._model.trust * np.log(p * (n_options - 1) / (1 - p))
        weights, counts = _sums(ballots, gains), _sums(ballots, np.ones_like(gains))
        exists = counts > 0
        weights = np.where(exists, weights, -np.inf)
        highest = np.maximum(weights.max(axis=1, initial=0.0), 0.0)[:, None]
        odds = np.exp(weights - highest)
        n_unheard = np.maximum(n_options - exists.sum(axis=1), 0)[:, None]
        chances: FloatArray = odds / (
            odds.sum(axis=1, keepdims=True) + n_unheard * np.exp(-highest)
        )
        return chances


class Elections:
    """What would be elected on each query of a table, for any experts asked."""

    def __init__(self, ballots: Ballots, right: IntArray, judge: Judge, by_count: bool) -> None:
        """`by_count`: most votes elect, whatever the judge thinks of them."""
        self.ballots = ballots
        self._right = right
        self._judge = judge
        self._by_count = by_count

    @classmethod
    def of(
        cls,
        table: OutcomeTable,
        scores: FloatArray,
        vote: VoteKind,
        model: IndependentVotes,
        asked: Sequence[BoolArray] | None = None,
    ) -> Elections:
        """`asked`: the sets a learned vote is fitted on; None: those it chooses itself."""
        ballots, right = recorded_ballots(table, scores)
        if vote != "learned":
            return cls(ballots, right, IndependentJudge(model), vote == "majority")
        n_experts = len(table.expert_ids)
        heard = ballots.heard_in_fitting(n_experts)
        if asked is not None:
            heard = [ballots.of_asked(each) for each in asked]
        return cls(ballots, right, HeldOutJudge(heard, right, n_experts), False)

    def after(self, ballots: Ballots) -> tuple[FloatArray, BoolArray]:
        """(n,) chance of the leading answer and whether the elected one is right.

        Both are 0 where none could be read.
        """
        leading, _, won = self.standing(ballots)
        return leading, won

    def standing(self, ballots: Ballots) -> tuple[FloatArray, FloatArray, BoolArray]:
        """`after`, and between its two the (n,) chance of the answer that is second."""
        chances = self._judge.chances(ballots)
        best_two = -np.partition(-np.pad(chances, ((0, 0), (0, 1))), 1, axis=1)[:, :2]
        votes = _sums(ballots, np.ones_like(ballots.chances)) if self._by_count else chances
        won: BoolArray = (votes.argmax(axis=1) == self._right) & (best_two[:, 0] > 0)
        return best_two[:, 0], best_two[:, 1], won


@dataclass(frozen=True, slots=True, eq=False)
class SetsHeard:
    """What every set of a few experts would elect: arrays of (n_sets, n_queries).

    A row's number is the set as a bit mask of columns; sets of more than `k_max` are all 0.
    """

    leading: FloatArray
    second: FloatArray
    """Chances of the two likeliest answers."""
    won: BoolArray

    @classmethod
    def of(cls, elections: Elections, n_experts: int, k_max: int) -> SetsHeard:
        shape = 1 << n_experts, len(elections.ballots.answers)
        leading, second = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        won = np.zeros(shape, dtype=bool)
        for size in range(1, k_max + 1):
            for chosen in combinations(range(n_experts), size):
                mask = sum(1 << e for e in chosen)
                heard = elections.ballots.of_experts(chosen)
                leading[mask], second[mask], won[mask] = elections.standing(heard)
        return cls(leading, second, won)


def _sums(ballots: Ballots, values: FloatArray) -> FloatArray:
    """(n, n_answers) of the values of those who gave each answer."""
    n_answers = max(int(ballots.answers.max(initial=-1)) + 1, 1)
    sums = np.zeros((len(ballots.answers), n_answers))
    rows, places = np.nonzero(ballots.answers >= 0)
    np.add.at(sums, (rows, ballots.answers[rows, places]), values[rows, places])
    return sums
