"""Ballots: who said what on each query, as arrays, and what a vote can be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import BoolArray, IntArray, OutcomeTable
from coe.routers.logistic import logit
from coe.routing import FloatArray

PREFIXES = (1, 2, 3, 4, 5, 7, 10, 14, 20)
"""How many of the best experts are heard in fitting, besides the whole pool."""
_ALL_SUBSETS = 5
"""Up to so many experts, every set of them is heard in fitting: policies ask in any order."""
_LEAST = 0.01
NO_VOTE = -1
_NOT_ASKED = -2
PER_ANSWER = ("expected", "best_expected", "log_count", "is_alone", "share", "of_the_best")
PER_NONE = ("none", "log_heard", "unread", "best_known", "agreement")
"""Features of an answer, and of "none of them", besides one for every expert that supports it."""


@dataclass(frozen=True, slots=True, eq=False)
class Ballots:
    """Who said what on each query, as arrays of (n_queries, n_places) in the order asked."""

    columns: IntArray
    """The expert's column."""
    answers: IntArray
    """Numbered from 0 in the order first heard on the query; -1 no vote, -2 not asked."""
    chances: FloatArray
    """The score of the expert in that place, as a probability."""

    @classmethod
    def of_codes(cls, columns: IntArray, codes: IntArray, chances: FloatArray) -> Ballots:
        """`codes` name answers by any number from 0; -1 and -2 as above."""
        answers = codes.copy()
        for row in range(len(codes)):
            number: dict[int, int] = {}
            for place, code in enumerate(codes[row].tolist()):
                if code >= 0:
                    answers[row, place] = number.setdefault(code, len(number))
        return cls(columns, answers, chances)

    def first(self, n_places: int) -> Ballots:
        """As heard after so many answers."""
        kept = slice(None), slice(0, n_places)
        return Ballots(self.columns[kept], self.answers[kept], self.chances[kept])

    def of_experts(self, columns: Sequence[int]) -> Ballots:
        """With only these experts asked; answers keep their numbers."""
        asked = np.isin(self.columns, list(columns))
        return Ballots(self.columns, np.where(asked, self.answers, _NOT_ASKED), self.chances)

    def of_asked(self, asked: BoolArray) -> Ballots:
        """With only the experts marked in (n_queries, n_experts) asked, query by query."""
        kept = np.take_along_axis(asked, self.columns, axis=1)
        return Ballots(self.columns, np.where(kept, self.answers, _NOT_ASKED), self.chances)

    def rows(self, kept: BoolArray) -> Ballots:
        """Of the marked queries."""
        return Ballots(self.columns[kept], self.answers[kept], self.chances[kept])

    def heard_in_fitting(self, n_experts: int) -> list[Ballots]:
        """The sets of experts to be fitted on: all of them in small pools, else the best few."""
        if n_experts <= _ALL_SUBSETS:
            sizes = range(1, n_experts + 1)
            sets = [chosen for size in sizes for chosen in combinations(range(n_experts), size)]
            return [self.of_experts(chosen) for chosen in sets]
        return [self.first(k) for k in (*(k for k in PREFIXES if k < n_experts), n_experts)]

    def features(self, n_experts: int) -> tuple[FloatArray, BoolArray]:
        """(n, n_answers + 1, n_features) and which exist; the last answer is "none of them"."""
        n, n_places = self.answers.shape
        n_answers = max(int(self.answers.max(initial=-1)) + 1, 1)
        features = np.zeros((n, n_answers + 1, n_experts + len(PER_ANSWER) + len(PER_NONE)))
        asked = self.answers != _NOT_ASKED
        expected = logit(np.clip(self.chances, _LEAST, 1 - _LEAST))
        count, total = np.zeros((n, n_answers)), np.zeros((n, n_answers))
        best = np.full((n, n_answers), -np.inf)
        for place in range(n_places):
            rows = np.flatnonzero(self.answers[:, place] >= 0)
            at = rows, self.answers[rows, place]
            features[(*at, self.columns[rows, place])] += 1.0
            count[at] += 1.0
            total[at] += expected[rows, place]
            best[at] = np.maximum(best[at], expected[rows, place])
        exists = count > 0
        n_votes, n_asked = count.sum(axis=1), asked.sum(axis=1)
        share = count / np.maximum(n_votes, 1.0)[:, None]
        finite = np.where(exists, best, 0.0)
        leads = exists & (best >= np.max(best, axis=1, keepdims=True))
        columns = (total, finite, np.log(np.maximum(count, 1.0)), count == 1, share, leads)
        for i, column in enumerate(columns):
            features[:, :-1, n_experts + i] = column * exists
        known = np.where(asked, expected, -np.inf).max(axis=1, initial=-np.inf)
        of_none = (
            np.ones(n),
            np.log(np.maximum(n_asked, 1)),
            1.0 - n_votes / np.maximum(n_asked, 1),
            np.where(np.isfinite(known), known, 0.0),
            share.max(axis=1),
        )
        features[:, -1, n_experts + len(PER_ANSWER) :] = np.stack(of_none, axis=1)
        return features, np.hstack([exists, np.ones((n, 1), dtype=bool)])


def recorded_ballots(table: OutcomeTable, scores: FloatArray) -> tuple[Ballots, IntArray]:
    """Every measured expert of each query by falling score, and the number of the right answer.

    The right answer is -1 where no expert gave it. Raises `DatasetError` without answers.
    """
    if table.answers is None:
        raise DatasetError("only scores were recorded; a learned vote needs the answers")
    if scores.shape != table.scores.shape:
        raise DatasetError(f"scores have shape {scores.shape}, the table {table.scores.shape}")
    measured = ~np.isnan(table.scores)
    order = np.argsort(np.where(measured, -scores, np.inf), axis=1, kind="stable")
    code_of: dict[str, int] = {}
    codes = np.array(
        [
            [NO_VOTE if a is None else code_of.setdefault(a, len(code_of)) for a in row]
            for row in table.answers
        ],
        dtype=np.intp,
    ).reshape(table.scores.shape)
    codes = np.take_along_axis(np.where(measured, codes, _NOT_ASKED), order, axis=1)
    ballots = Ballots.of_codes(order, codes, np.take_along_axis(scores, order, axis=1))
    won = np.take_along_axis(np.nan_to_num(table.scores), order, axis=1) > 0.5
    won &= ballots.answers >= 0
    right = np.where(won.any(axis=1), ballots.answers[np.arange(len(won)), won.argmax(axis=1)], -1)
    return ballots, right
