"""Policies that ask one expert at a time and look at the answers before asking the next.

All are pure: what was heard comes in, the next expert or None comes out. They compare answers
with ==, so whoever reads completions decides what counts as the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coe.experts import ExpertPool
from coe.routers.policies.budgets import cost_named, costs_of
from coe.routers.policies.ranking import at_least, best_first, named, within_unit
from coe.routing import FloatArray, Heard, Policy
from coe.votes import is_settled


class VoteModel(Protocol):
    """How likely each answer heard is right."""

    def chances(
        self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]
    ) -> Mapping[str, float]:
        """Answer → probability, in the order first heard; they leave room for what nobody said."""
        ...


@dataclass(frozen=True, slots=True)
class AskAll:
    """A static policy asked one expert at a time; answers change nothing."""

    policy: Policy

    @property
    def name(self) -> str:
        return self.policy.name

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        return _first_unasked(self.policy.choose(scores, pool), heard)


@dataclass(frozen=True, slots=True)
class FallbackOnUnreadable:
    """The best expert, and the next best one while no answer could be read."""

    max_calls: int = 2

    def __post_init__(self) -> None:
        at_least("max_calls", self.max_calls, 1)

    @property
    def name(self) -> str:
        return f"fallback-{self.max_calls}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        if len(heard) >= self.max_calls or (heard and heard[-1].answer is not None):
            return None
        return _first_unasked(named(best_first(scores)[: self.max_calls], pool), heard)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Cheap experts first, until one is trusted or several agree.

    FrugalGPT (arXiv 2305.05176) stops on a score of the answer; here it is the expert's calibrated
    chance on the query, and agreement. An expert whose answer could not be read stops nothing.
    """

    cost: str = "params_active_b"
    """What cheap means; a name of `coe.routers.policies.COSTS`."""
    length: int = 3
    """Experts in the chain: the best by score, asked by rising cost."""
    chain: tuple[str, ...] = ()
    """Experts to ask in this order instead; empty: chosen for each query."""
    threshold: float = 1.0
    """Probability from which one expert's answer is enough; 1 trusts none alone."""
    agreeing: int = 2
    """Equal answers that are enough."""

    def __post_init__(self) -> None:
        cost_named(self.cost)
        at_least("length", self.length, 1)
        at_least("agreeing", self.agreeing, 1)
        within_unit("threshold", self.threshold)

    @property
    def name(self) -> str:
        return f"cascade-{len(self.chain) or self.length}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        if heard and self._is_enough(scores, pool, heard):
            return None
        return _first_unasked(self.chain or self._cheap_first(scores, pool), heard)

    def _is_enough(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> bool:
        last = heard[-1]
        if last.answer is None:
            return False
        if sum(each.answer == last.answer for each in heard) >= self.agreeing:
            return True
        chance = scores[pool.ids.index(last.expert_id)]
        return self.threshold < 1.0 and bool(chance >= self.threshold)

    def _cheap_first(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        best = best_first(scores)[: self.length]
        costs = costs_of(pool, self.cost)
        return named(best[np.argsort(costs[best], kind="stable")], pool)


@dataclass(frozen=True, slots=True)
class EarlyStoppingVote:
    """The k best experts in turn, until those left can no longer change the majority.

    The vote is the same as after asking them all: equal counts go to the answer heard first, and
    an answer that could not be read is no vote. `max_calls` above k asks further experts in place
    of unreadable ones, until k votes are in.
    """

    k: int = 3
    max_calls: int | None = None
    """None means k: unreadable answers are not replaced."""

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        at_least("max_calls", self.k if self.max_calls is None else self.max_calls, self.k)

    @property
    def name(self) -> str:
        further = "" if self.max_calls in (None, self.k) else f"-of-{self.max_calls}"
        return f"vote-{self.k}{further}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        most = min(self.max_calls or self.k, len(pool))
        n_votes = sum(each.answer is not None for each in heard)
        n_left = min(most - len(heard), self.k - n_votes)
        if n_left <= 0 or is_settled(_votes(heard), len(heard) + n_left):
            return None
        return _first_unasked(named(best_first(scores)[:most], pool), heard)


@dataclass(frozen=True, slots=True)
class IndependentVotes:
    """Answers weighed as if experts erred independently and evenly over the wrong options.

    Bayes' rule with each score as the probability that its expert is right, which is only sound
    for calibrated scores. Experts err together in truth, which overstates agreement: `trust`
    below 1 shrinks the log of every likelihood by as much.
    """

    n_options: int = 10
    """Answers that a query may have. Open questions have many."""
    trust: float = 1.0

    def __post_init__(self) -> None:
        at_least("n_options", self.n_options, 2)
        within_unit("trust", self.trust)

    def chances(
        self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]
    ) -> Mapping[str, float]:
        weights: dict[str, float] = {}
        for each in heard:
            if each.answer is not None:
                p = min(max(float(scores[pool.ids.index(each.expert_id)]), 1e-6), 1 - 1e-6)
                # Against any answer it did not give, which has likelihood (1 - p) / (m - 1).
                gain = self.trust * np.log(p * (self.n_options - 1) / (1 - p))
                weights[each.answer] = weights.get(each.answer, 0.0) + float(gain)
        n_unheard = max(self.n_options - len(weights), 0)
        highest = max([0.0, *weights.values()])
        odds = {answer: float(np.exp(weight - highest)) for answer, weight in weights.items()}
        total = sum(odds.values()) + n_unheard * float(np.exp(-highest))
        return {answer: odd / total for answer, odd in odds.items()}


_INDEPENDENT = IndependentVotes()


@dataclass(frozen=True, slots=True)
class AdaptiveVote:
    """The best experts in turn, until the leading answer is likely enough to be right.

    Likely enough is `confidence`, or `lead` above the score of the expert that would be asked next:
    on a query that everybody is expected to fail, more votes are of little use.
    """

    k_max: int = 5
    confidence: float = 0.9
    lead: float | None = None
    """None: only `confidence` stops."""
    model: VoteModel = _INDEPENDENT

    def __post_init__(self) -> None:
        at_least("k_max", self.k_max, 1)
        within_unit("confidence", self.confidence)

    @property
    def name(self) -> str:
        lead = "" if self.lead is None else f"-lead-{self.lead:g}"
        return f"adaptive-vote-{self.k_max}-{self.confidence:g}{lead}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        if len(heard) >= self.k_max:
            return None
        candidate = _first_unasked(named(best_first(scores)[: self.k_max], pool), heard)
        if candidate is None or not heard:
            return candidate
        leading = max(self.model.chances(scores, pool, heard).values(), default=0.0)
        if leading == 0.0:
            return candidate
        is_ahead = self.lead is not None and (
            leading - scores[pool.ids.index(candidate)] >= self.lead
        )
        return None if is_ahead or leading >= self.confidence else candidate


def majority(heard: Sequence[Heard]) -> str | None:
    """The answer most experts gave, the earliest of equals; None if none could be read."""
    counts: dict[str, int] = {}
    for each in heard:
        if each.answer is not None:
            counts[each.answer] = counts.get(each.answer, 0) + 1
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def _votes(heard: Sequence[Heard]) -> Mapping[int, str | None]:
    """Answers by rank: experts asked in turn rank in that order."""
    return {rank: each.answer for rank, each in enumerate(heard)}


def _first_unasked(expert_ids: Sequence[str], heard: Sequence[Heard]) -> str | None:
    asked = {each.expert_id for each in heard}
    return next((expert_id for expert_id in expert_ids if expert_id not in asked), None)
