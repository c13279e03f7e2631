"""Policies of any kind judged on recorded answers: whom they ask, and what the vote makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coe.aggregation import WeightedVote
from coe.errors import ConfigError, DatasetError, PoolMismatch, RoutingError, nearest
from coe.eval.metrics import PerQuery, per_query
from coe.experts import ExpertPool
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.policies.adaptive import VoteModel
from coe.routers.policies.replay import (
    Replayed,
    Verdict,
    by_majority,
    by_model,
    replay,
    verdict_scores,
)
from coe.routing import AdaptivePolicy, Heard, Policy

AGGREGATORS = ("majority", "weighted", "learned", "first")
"""How several answers become one."""
_REREAD = ("chain", "llm")
"""Aggregators that show answers to further experts, whose answers to them nobody recorded."""


def check_aggregator(name: str) -> None:
    """Raises `ConfigError` with the nearest known name."""
    if name in _REREAD:
        raise ConfigError(
            f"aggregator {name!r} shows answers to experts again, so answers given once cannot "
            f"judge it; choose one of --aggregator {', '.join(AGGREGATORS)}"
        )
    if name not in AGGREGATORS:
        guess = nearest(name, AGGREGATORS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown aggregator {name!r} (known: {', '.join(AGGREGATORS)}){hint}")


def verdict_named(name: str, pool: ExpertPool, model: VoteModel | None = None) -> Verdict:
    """The vote of that name over what was heard; "learned" needs its `model`."""
    check_aggregator(name)
    if name == "learned":
        if model is None:
            raise ConfigError("a learned vote must be fitted first", key="aggregator")
        return by_model(model, pool)
    return {"majority": by_majority, "first": by_first, "weighted": by_weight(pool)}[name]


def by_first(scores: FloatArray, heard: Sequence[Heard]) -> str | None:
    """The first answer that could be read."""
    return next((each.answer for each in heard if each.answer is not None), None)


def by_weight(pool: ExpertPool) -> Verdict:
    """Votes that weigh as in `WeightedVote`, scores being probabilities."""

    def verdict(scores: FloatArray, heard: Sequence[Heard]) -> str | None:
        vote = WeightedVote(dict(zip(pool.ids, scores.tolist(), strict=True)))
        weights: dict[str, float] = {}
        for each in heard:
            if each.answer is not None:
                weight = vote.weight(each.expert_id)
                weights[each.answer] = weights.get(each.answer, 0.0) + weight
        return max(weights, key=lambda answer: weights[answer]) if weights else None

    return verdict


def comparable(table: OutcomeTable) -> OutcomeTable:
    """The table with answers that compare equal if only case or outer white space differ."""
    if table.answers is None:
        return table
    folded = tuple(
        tuple(None if answer is None else answer.strip().casefold() for answer in row)
        for row in table.answers
    )
    return replace(table, answers=folded)


def judged_policy(
    policy: Policy | AdaptivePolicy,
    scores: FloatArray,
    table: OutcomeTable,
    pool: ExpertPool,
    verdict: Verdict = by_majority,
) -> PerQuery:
    """What a policy brings on recorded answers, given (n_queries, n_experts) scores.

    An expert not measured on a query fails, as a live one may. Where no answer could be read the
    first expert's outcome counts. A table without answers serves policies that choose one expert.
    """
    if isinstance(policy, AdaptivePolicy):
        asked = replay(policy, scores, table, pool)
    else:
        asked = asked_at_once(policy, scores, table, pool)
    outcomes = verdict_scores(asked, scores, table, verdict)
    return per_query(table, pool, outcomes, asked.asked(pool.ids))


def asked_at_once(
    policy: Policy, scores: FloatArray, table: OutcomeTable, pool: ExpertPool
) -> Replayed:
    """Whom a static policy asks and what they answer, best expert first."""
    if table.expert_ids != pool.ids:
        fix = "take the pool's columns with `for_experts`"
        raise PoolMismatch(
            "recorded answers", ", ".join(table.expert_ids), ", ".join(pool.ids), fix
        )
    column = {expert_id: i for i, expert_id in enumerate(pool.ids)}
    heard: list[tuple[Heard, ...]] = []
    for row in range(table.n_queries):
        chosen = policy.choose(scores[row], pool)
        if not chosen:
            raise RoutingError(f"policy {policy.name!r} chose no expert")
        if table.answers is None and len(chosen) > 1:
            raise DatasetError(
                "only scores were recorded, so several experts cannot answer together; "
                "use a policy that chooses one, such as top-1"
            )
        heard.append(tuple(_heard(table, row, column[id_], id_) for id_ in chosen))
    return Replayed(tuple(heard), np.array([len(each) for each in heard], dtype=np.intp))


def _heard(table: OutcomeTable, row: int, column: int, expert_id: str) -> Heard:
    if table.answers is None or np.isnan(table.scores[row, column]):
        return Heard(expert_id, None)
    return Heard(expert_id, table.answers[row][column])
