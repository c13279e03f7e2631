"""Finds the numbers of a policy that keep mean calls or a mean cost, on recorded outcomes.

Everything is judged on scores, and by learned votes, of queries that were held out from their
fits. Of all settings that keep the limit the one with the best outcome is taken, the earliest of
equals. What holds on one table need not hold on the next, so limits are kept with a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from coe.errors import ConfigError, PoolMismatch
from coe.experts import ExpertPool
from coe.outcomes import IntArray, OutcomeTable
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies.adaptive import IndependentVotes
from coe.routers.policies.budgets import costs_of, fit_multiplier
from coe.routers.policies.catalog import PolicySpec, check_spec, spelt_out
from coe.routers.policies.chains import (
    COARSE,
    LONGEST,
    PricedElections,
    considered,
    drawn_sets,
    grown_chain,
    priced_votes,
)
from coe.routers.policies.elections import Elections, SetsHeard, VoteKind
from coe.routers.policies.planning import Planning
from coe.routing import FloatArray

__all__ = ["VoteKind", "fitted_vote", "tuned"]

MARGIN = 0.01
"""A limit on calls is to hold for a threshold higher by this, too: many queries share nearly one
score, and a little drift would carry all of them over the threshold. Tuned on one half of recorded
MMLU-Pro training queries for 3 calls and judged on the other, no margin spent up to 3.01."""
SPENT = 0.985
"""The share of a budget that may be spent on the table that it is tuned on. A planned vote, judged
on held-out queries, keeps a margin of its own (`planning`)."""
_CONFIDENCES = np.round(
    np.concatenate([np.linspace(0.2, 0.9, 71), np.linspace(0.905, 0.995, 19)]), 3
)
_LEADS = np.round(np.linspace(-0.2, 0.5, 71), 2)


def tuned(
    spec: PolicySpec,
    table: OutcomeTable,
    scores: FloatArray,
    pool: ExpertPool,
    vote: VoteKind = "independent",
) -> PolicySpec:
    """The spec with `calls` or `budget` turned into numbers; a tuned one comes back as it is.

    `scores` (n_queries, n_experts) are probabilities of the table's queries from fits that they
    were held out of. `vote` says how answers are elected where the policy asks several. A priced
    or planned vote in a pool of more than 5 is told which experts to consider, unless it says so.
    Raises `ConfigError` if the limit is below what the cheapest way costs.
    """
    check_spec(spec)
    if spec.is_tuned:
        return spec
    if table.expert_ids != pool.ids:
        raise PoolMismatch(
            "outcomes",
            ", ".join(table.expert_ids),
            ", ".join(pool.ids),
            "take the pool's columns with `for_experts`",
        )
    if table.n_queries == 0:
        raise ConfigError("no outcomes to tune the policy on")
    if spec.experts is not None:
        table, scores, pool = _restricted(spec.experts, table, scores, pool)
    if "calls" in spec.options:
        return _tuned_calls(spec, table, scores, vote)
    if spec.kind == "priced-vote":
        return _tuned_priced_vote(spec, table, scores, pool, vote)
    if spec.kind == "planned-vote":
        _check_vote(vote)
        return _tuned_planned_vote(spec, table, scores, pool)
    return _tuned_price(spec, scores, pool)


def fitted_vote(
    spec: PolicySpec, table: OutcomeTable, scores: FloatArray, pool: ExpertPool | None = None
) -> LearnedVote:
    """A learned vote of the experts that a tuned spec considers. `scores` as for `tuned`.

    Where the spec asks all of them at once, the vote is fitted for that alone. For a planned vote
    it carries the plan, which the `pool` is needed for.
    """
    if spec.experts is not None:
        columns = [i for i, expert_id in enumerate(table.expert_ids) if expert_id in spec.experts]
        table = table.for_experts([table.expert_ids[column] for column in columns])
        scores = scores[:, columns]
    vote = LearnedVote.fit(table, scores, everybody=_asks_everybody(spec, len(table.expert_ids)))
    return _with_plan(vote, spec, table, scores, pool) if spec.kind == "planned-vote" else vote


def _asks_everybody(spec: PolicySpec, n_experts: int) -> bool:
    spec = spelt_out(spec)
    return spec.kind == "top-k" and spec.k >= n_experts


def _with_plan(
    vote: LearnedVote,
    spec: PolicySpec,
    table: OutcomeTable,
    scores: FloatArray,
    pool: ExpertPool | None,
) -> LearnedVote:
    if pool is None:
        raise ConfigError("a planned vote needs the pool for its costs")
    in_order = ExpertPool(tuple(pool.expert(expert_id) for expert_id in table.expert_ids))
    costs = costs_of(in_order, spec.options["cost"])
    planning = _planning(table, scores, costs, spec.k)
    plan = planning.plan(table.expert_ids, float(spec.options["multiplier"]))
    return vote.with_plan(plan.artifact(vote.artifact().manifest))


def _restricted(
    expert_ids: Sequence[str], table: OutcomeTable, scores: FloatArray, pool: ExpertPool
) -> tuple[OutcomeTable, FloatArray, ExpertPool]:
    seen = pool.subset(expert_ids)
    columns = [pool.ids.index(expert_id) for expert_id in seen.ids]
    return table.for_experts(seen.ids), scores[:, columns], seen


def _check_vote(vote: VoteKind) -> None:
    if vote != "learned":
        raise ConfigError("a planned vote needs the learned vote; set the aggregator to learned")


def _tuned_price(spec: PolicySpec, scores: FloatArray, pool: ExpertPool) -> PolicySpec:
    options = dict(spec.options)
    costs = costs_of(pool, options["cost"])
    k = int(spec.kind.removeprefix("top-")) if spec.kind != "top-k" else spec.k
    budget = max(SPENT * options.pop("budget"), 0.0)
    return replace(
        spec, options={**options, "multiplier": fit_multiplier(scores, costs, budget, k)}
    )


def _tuned_calls(
    spec: PolicySpec, table: OutcomeTable, scores: FloatArray, vote: VoteKind
) -> PolicySpec:
    options = dict(spec.options)
    most_calls = options.pop("calls")
    if most_calls < 1:
        raise ConfigError(f"calls is {most_calls:g}; give at least 1", key="calls")
    k_most = min(spec.k, len(table.expert_ids))
    elections = Elections.of(table, scores, vote, _independent(options))
    fared = [elections.after(elections.ballots.first(k + 1)) for k in range(k_most)]
    chance, won = np.stack([c for c, _ in fared]), np.stack([w for _, w in fared])
    ranked = -np.sort(-scores, axis=1)
    # The score of the expert asked next; after the last one nothing is compared.
    ahead = chance - np.pad(ranked[:, 1 : k_most + 1], ((0, 0), (0, 1)))[:, :k_most].T
    kinds = [(chance, float(t), {"confidence": float(t)}) for t in _CONFIDENCES]
    kinds += [(ahead, float(t), {"confidence": 1.0, "lead": float(t)}) for t in _LEADS]
    best: tuple[float, int, dict[str, float]] = (-1.0, 1, {"confidence": 1.0})
    for k_max, (sign, least, found) in product(range(1, k_most + 1), kinds):
        # Where nothing could be read nothing leads, and the vote goes on.
        known = np.where(chance > 0, sign, -np.inf)[:k_max]
        at = _stopped(known, least)
        quality = float(won[at, np.arange(won.shape[1])].mean())
        if quality > best[0] and (_stopped(known, least + MARGIN) + 1).mean() <= most_calls:
            best = (quality, k_max, found)
    return replace(spec, k=best[1], options={**options, **best[2]})


def _stopped(sign: FloatArray, least: float) -> IntArray:
    """(n,) the place after which an `AdaptiveVote` stops, from 0; `sign` is (k_max, n)."""
    stops = sign >= least
    stops[-1] = True
    places: IntArray = stops.argmax(axis=0)
    return places


def _tuned_priced_vote(
    spec: PolicySpec, table: OutcomeTable, scores: FloatArray, pool: ExpertPool, vote: VoteKind
) -> PolicySpec:
    spec, table, scores, pool = _considering(spec, table, scores, pool, vote)
    options = dict(spec.options)
    budget, cost = SPENT * options.pop("budget"), options["cost"]
    costs = costs_of(pool, cost)
    elections = Elections.of(table, scores, vote, _independent(options))
    priced = PricedElections(elections, scores, costs, spec.k)
    policies = priced_votes(cost, costs, spec.k, options)
    found = priced.best(range(len(pool)), policies, budget)
    if found is None:
        raise _too_low(cost, budget, costs)
    chosen = found[1]
    return replace(
        spec,
        options={**options, "multiplier": chosen.multiplier, "patience": chosen.patience},
    )


def _tuned_planned_vote(
    spec: PolicySpec, table: OutcomeTable, scores: FloatArray, pool: ExpertPool
) -> PolicySpec:
    spec, table, scores, pool = _considering(spec, table, scores, pool, "learned")
    options = dict(spec.options)
    budget, cost = options.pop("budget"), options["cost"]
    costs = costs_of(pool, cost)
    multiplier = _planning(table, scores, costs, spec.k).multiplier_for(budget)
    if multiplier is None:
        raise _too_low(cost, budget, costs)
    return replace(spec, options={**options, "multiplier": multiplier})


def _planning(table: OutcomeTable, scores: FloatArray, costs: FloatArray, k_max: int) -> Planning:
    n_experts = len(costs)
    if n_experts > LONGEST:
        raise ConfigError(
            f"a planned vote considers at most {LONGEST} experts; name so many as a+b, or give a "
            "budget without names and they are found",
            key="experts",
        )
    elections = Elections.of(table, scores, "learned", IndependentVotes())
    sets = SetsHeard.of(elections, n_experts, min(k_max, n_experts))
    return Planning(sets, scores, costs, k_max)


def _considering(
    spec: PolicySpec, table: OutcomeTable, scores: FloatArray, pool: ExpertPool, vote: VoteKind
) -> tuple[PolicySpec, OutcomeTable, FloatArray, ExpertPool]:
    """In a large pool, the spec with the experts to consider, and what is left of the rest."""
    if spec.experts is not None or len(pool) <= LONGEST:
        return spec, table, scores, pool
    chain = _chain(spec, table, scores, costs_of(pool, spec.options["cost"]), vote)
    expert_ids = [pool.ids[column] for column in chain]
    spec = replace(spec, options={**spec.options, "experts": "+".join(expert_ids)})
    return (spec, *_restricted(expert_ids, table, scores, pool))


def _too_low(cost: str, budget: float, costs: FloatArray) -> ConfigError:
    return ConfigError(
        f"no price keeps a mean {cost} of {budget:g}; the cheapest expert costs {costs.min():g}: "
        "raise the budget",
        key="budget",
    )


def _chain(
    spec: PolicySpec,
    table: OutcomeTable,
    scores: FloatArray,
    costs: FloatArray,
    vote: VoteKind,
) -> tuple[int, ...]:
    """The columns that a priced vote of this budget should consider."""
    seen = considered(scores, costs)
    columns = list(seen)
    few = table.for_experts([table.expert_ids[column] for column in columns])
    asked = drawn_sets(table.n_queries, len(columns), LONGEST)
    elections = Elections.of(few, scores[:, columns], vote, _independent(spec.options), asked)
    priced = PricedElections(elections, scores[:, columns], costs[columns], min(spec.k, LONGEST))
    policies = priced_votes(spec.options["cost"], costs[columns], spec.k, spec.options, COARSE)
    grown = grown_chain(priced, policies, SPENT * spec.options["budget"])
    return tuple(columns[place] for place in grown)


def _independent(options: Any) -> IndependentVotes:
    return IndependentVotes(
        **{name: options[name] for name in ("n_options", "trust") if name in options}
    )
