"""A learned vote: which of the answers heard is right, judged by who said what.

A conditional logit (McFadden 1974) over the distinct answers and "none of them": every answer has
a utility, linear in who supports it, how surely the router expected them to be right, and how
many agree. Weights are one number an expert and a handful besides, so correlated experts share
weight where a naive Bayes vote counts them twice. It is fitted on what would have been heard from
many sets of experts, so that it can say after every answer how likely the leading one is.

Lengths of completions, how cleanly they were read, pairs of experts, letters, the number of
options, a slope for each expert and the query's category or embedding were tried as further
features on recorded MMLU-Pro answers, and so was a small network: within the noise of
cross-validation none elects more right answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from coe.errors import DatasetError, UnknownExpert
from coe.experts import ExpertPool
from coe.outcomes import BoolArray, IntArray, OutcomeTable
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.ballots import NO_VOTE, PER_ANSWER, PER_NONE, Ballots, recorded_ballots
from coe.routers.logistic import minimized
from coe.routing import FloatArray, Heard
from coe.types import Completion, GenerationRequest
from coe.votes import folded

C = 0.1
"""Inverse strength of the penalty on weights."""


class LearnedVote:
    """Elects the answer most likely right. A vote model for adaptive policies, and an aggregator.

    A completion that cannot be read has no vote; if none can, the first is the answer.
    """

    name = "learned"

    def __init__(
        self,
        artifact: Artifact,
        read: Callable[[str], str | None] | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """`read` None compares whole texts, without case and outer white space.

        `scores` None takes every expert's mean for the router's expectation.
        """
        self._artifact = artifact
        self._read = read or folded
        self.expert_ids = artifact.manifest.expert_ids
        self._column = {expert_id: i for i, expert_id in enumerate(self.expert_ids)}
        self._weights = VoteWeights(artifact.arrays["weights"], len(self.expert_ids))
        means = dict(zip(self.expert_ids, artifact.arrays["means"].tolist(), strict=True))
        self._scores = {**means, **(scores or {})}

    @classmethod
    def fit(
        cls, table: OutcomeTable, scores: FloatArray, c: float = C, everybody: bool = False
    ) -> LearnedVote:
        """`scores` (n_queries, n_experts): probabilities of queries held out from their fit.

        Scores of queries that were fitted on look surer than those to come. `everybody` fits for
        votes of the whole pool alone, which serves those a little better and no other. Raises
        `DatasetError` if answers were not recorded.
        """
        if table.n_queries == 0:
            raise DatasetError("a learned vote needs at least one query to be fitted on")
        ballots, right = recorded_ballots(table, scores)
        n_experts = len(table.expert_ids)
        heard = [ballots] if everybody else ballots.heard_in_fitting(n_experts)
        fitted = VoteWeights.fit(heard, right, n_experts, c)
        settings = {"c": c, "everybody": everybody}
        manifest = Manifest(
            cls.name, table.expert_ids, table.digest(), table.n_queries, settings=settings
        )
        arrays = {"weights": fitted.weights, "means": scores.mean(axis=0)}
        return cls(Artifact(manifest, arrays))

    def artifact(self) -> Artifact:
        return self._artifact

    @property
    def plan(self) -> Artifact | None:
        """Of a policy that was planned for this vote (`policies.planned_vote`)."""
        return self._artifact.parts.get("plan")

    def with_plan(self, plan: Artifact) -> LearnedVote:
        """The same vote; its artifact carries the plan as a part."""
        carrying = replace(self._artifact, parts={**self._artifact.parts, "plan": plan})
        return LearnedVote(carrying, self._read, self._scores)

    def with_scores(self, scores: Mapping[str, float]) -> LearnedVote:
        """For one query; experts without a score keep their mean."""
        return LearnedVote(self._artifact, self._read, scores)

    def chances(
        self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]
    ) -> Mapping[str, float]:
        ids = pool.ids
        rows = [(each.expert_id, each.answer) for each in heard]
        return self._elect(rows, [float(scores[ids.index(id_)]) for id_, _ in rows])

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        rows = [(id_, self._read(completion.text)) for id_, completion in completions]
        chances = self._elect(rows, [self._scores.get(id_, 0.5) for id_, _ in rows])
        if not chances:
            return completions[0][1].text
        elected = max(chances, key=lambda answer: chances[answer])
        place = [answer for _, answer in rows].index(elected)
        return completions[place][1].text

    def _elect(
        self, rows: Sequence[tuple[str, str | None]], scores: Sequence[float]
    ) -> Mapping[str, float]:
        """Answer → probability, in the order heard; `rows` are expert and answer."""
        number: dict[str, int] = {}
        codes = [
            NO_VOTE if answer is None else number.setdefault(answer, len(number))
            for _, answer in rows
        ]
        if not number:
            return {}
        for expert_id, _ in rows:
            if expert_id not in self._column:
                raise UnknownExpert(expert_id, self.expert_ids)
        columns = [self._column[expert_id] for expert_id, _ in rows]
        ballots = Ballots(np.array([columns]), np.array([codes]), np.array([scores]))
        chances = self._weights.chances(ballots)[0]
        return {answer: float(chances[i]) for answer, i in number.items()}


class VoteWeights:
    """The fitted utility: ballots in, probabilities of their answers out."""

    def __init__(self, weights: FloatArray, n_experts: int) -> None:
        self.weights = weights
        self._n_experts = n_experts

    @classmethod
    def fit(
        cls, heard: Sequence[Ballots], right: IntArray, n_experts: int, c: float
    ) -> VoteWeights:
        """Each ballots of the same queries; `right` (n_queries,) as from `recorded_ballots`.

        Where the right answer was not among those heard, "none of them" is right.
        """
        parts = []
        for ballots in heard:
            features, exists = ballots.features(n_experts)
            n_answers = features.shape[1] - 1
            is_heard = (right >= 0) & (right < n_answers)
            is_heard[is_heard] = exists[is_heard, right[is_heard]]
            parts.append((features, exists, np.where(is_heard, right, n_answers)))
        n_features = n_experts + len(PER_ANSWER) + len(PER_NONE)
        return cls(minimized(_loss(parts, c), np.zeros(n_features)), n_experts)

    def chances(self, ballots: Ballots) -> FloatArray:
        """(n, n_answers + 1) probabilities; the last column is "none of them"."""
        features, exists = ballots.features(self._n_experts)
        return _softmax(features @ self.weights, exists)


def _softmax(utilities: FloatArray, exists: BoolArray) -> FloatArray:
    masked = np.where(exists, utilities, -np.inf)
    powers = np.exp(masked - masked.max(axis=1, keepdims=True))
    shares: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _loss(
    parts: Sequence[tuple[FloatArray, BoolArray, IntArray]], c: float
) -> Callable[[FloatArray], tuple[float, FloatArray]]:
    """Cross-entropy of the right answers + |w|² / (2 c), and its slope."""
    flat, groups, targets = [], [], []
    for features, exists, target in parts:
        wanted = np.zeros(exists.shape)
        wanted[np.arange(len(target)), target] = 1.0
        flat.append(features[exists])
        groups.append(exists.sum(axis=1))
        targets.append(wanted[exists])
    x, wanted = np.concatenate(flat), np.concatenate(targets)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(groups))[:-1]])
    sizes = np.concatenate(groups)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        utilities = x @ weights
        highest = np.repeat(np.maximum.reduceat(utilities, starts), sizes)
        powers = np.exp(utilities - highest)
        shares = powers / np.repeat(np.add.reduceat(powers, starts), sizes)
        value = -np.log(np.maximum(shares[wanted > 0], 1e-300)).sum()
        slope = x.T @ (shares - wanted) + weights / c
        return float(value + 0.5 * (weights @ weights) / c), slope

    return loss
