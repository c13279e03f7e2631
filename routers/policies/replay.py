"""Adaptive policies over recorded answers: what they would have asked and heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coe.errors import DatasetError, PoolMismatch, RoutingError
from coe.experts import ExpertPool
from coe.outcomes import IntArray, OutcomeTable
from coe.routers.policies.adaptive import VoteModel, majority
from coe.routing import AdaptivePolicy, FloatArray, Heard

Verdict = Callable[[FloatArray, Sequence[Heard]], str | None]
"""One row of scores and what was heard → the answer given, None if none could be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What a policy asked and heard, query by query in the table's order."""

    heard: tuple[tuple[Heard, ...], ...]
    calls: IntArray
    """(n_queries,) experts asked."""

    def asked(self, expert_ids: Sequence[str]) -> FloatArray:
        """(n_queries, n_experts) 1 where the expert was asked, else 0."""
        column = {expert_id: i for i, expert_id in enumerate(expert_ids)}
        marks = np.zeros((len(self.heard), len(expert_ids)))
        for row, heard in enumerate(self.heard):
            marks[row, [column[each.expert_id] for each in heard]] = 1.0
        return marks


def replay(
    policy: AdaptivePolicy, scores: FloatArray, table: OutcomeTable, pool: ExpertPool
) -> Replayed:
    """Asks the policy about every query of a table with recorded answers.

    `scores` (n_queries, n_experts). An expert not measured on a query fails, as a live one may.
    Raises `RoutingError` if the policy asks an expert twice.
    """
    if table.expert_ids != pool.ids:
        raise PoolMismatch(
            "recorded answers",
            ", ".join(table.expert_ids),
            ", ".join(pool.ids),
            "take the pool's columns with `for_experts`",
        )
    if table.answers is None:
        raise DatasetError("only scores were recorded; an adaptive policy needs the answers")
    column = {expert_id: i for i, expert_id in enumerate(pool.ids)}
    unmeasured = np.isnan(table.scores)
    told: list[tuple[Heard, ...]] = []
    for row, answers in enumerate(table.answers):
        heard: list[Heard] = []
        while (expert_id := policy.next(scores[row], pool, tuple(heard))) is not None:
            if any(each.expert_id == expert_id for each in heard):
                raise RoutingError(f"policy {policy.name!r} asked {expert_id!r} twice")
            at = column[expert_id]
            heard.append(Heard(expert_id, None if unmeasured[row, at] else answers[at]))
        told.append(tuple(heard))
    return Replayed(tuple(told), np.array([len(heard) for heard in told], dtype=np.intp))


def by_majority(scores: FloatArray, heard: Sequence[Heard]) -> str | None:
    return majority(heard)


def by_model(model: VoteModel, pool: ExpertPool) -> Verdict:
    """The likeliest answer under a vote model, the earliest heard of equals."""

    def verdict(scores: FloatArray, heard: Sequence[Heard]) -> str | None:
        chances = model.chances(scores, pool, heard)
        return max(chances, key=lambda answer: chances[answer]) if chances else None

    return verdict


def verdict_scores(
    replayed: Replayed, scores: FloatArray, table: OutcomeTable, verdict: Verdict = by_majority
) -> FloatArray:
    """(n_queries,) outcome of the answer given, as the expert that gave it was scored.

    Where none could be read it is the outcome of the first expert that was measured, and NaN
    where none was.
    """
    column = {expert_id: i for i, expert_id in enumerate(table.expert_ids)}
    outcomes = np.full(table.n_queries, np.nan)
    for row, heard in enumerate(replayed.heard):
        answer = verdict(scores[row], heard)
        for each in heard:
            outcome = table.scores[row, column[each.expert_id]]
            if each.answer == answer and not np.isnan(outcome):
                outcomes[row] = outcome
                break
    return outcomes
