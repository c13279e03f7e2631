"""A vote that asks on while a plan, learnt backwards from the last expert, says that it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coe.errors import PoolMismatch
from coe.experts import ExpertPool
from coe.outcomes import BoolArray
from coe.routers.artifacts import Artifact, Manifest
from coe.routers.policies.adaptive import VoteModel
from coe.routers.policies.budgets import cost_named, costs_of
from coe.routers.policies.ranking import at_least
from coe.routing import FloatArray, Heard

N_SHARED = 15
"""Features besides one for each other expert, 1 where it was heard."""


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """What is known of some queries on which the same experts were heard."""

    scores: FloatArray
    """(n, n_experts)"""
    worth: FloatArray
    """(n, n_experts) scores less the price of asking."""
    heard: BoolArray
    """(n_experts,)"""
    leading: FloatArray
    """(n,) chance of the likeliest answer; 0 where there is none."""
    second: FloatArray
    """(n,) chance of the next likeliest; 0 where there is none."""

    @property
    def unheard(self) -> list[int]:
        return np.flatnonzero(~self.heard).tolist()

    def features(self, expert: int) -> FloatArray:
        """(n, `N_SHARED` + n_experts - 1) what the value of asking this one next is read from."""
        ones, lead, score = np.ones(len(self.scores)), self.leading, self.scores[:, expert]
        others = [e for e in self.unheard if e != expert]
        rest = self.worth[:, others].max(axis=1) if others else 0.0 * ones
        n_heard = float(self.heard.sum())
        is_first = float(n_heard == 0)
        of_answers = (ones, lead, self.second, lead * lead, lead * self.second, lead == 0.0)
        of_expert = (score, score * lead, score * score)
        of_rest = (rest, rest * lead, float(not others) * ones)
        of_heard = (is_first * ones, n_heard * ones, n_heard * lead)
        marks = np.broadcast_to(np.delete(self.heard, expert), (len(ones), len(self.heard) - 1))
        return np.column_stack([*of_answers, *of_expert, *of_rest, *of_heard, marks])


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One linear prediction an expert: what the query is worth once it is asked next.

    That is the chance of the answer elected in the end, less what is paid after this expert.
    """

    expert_ids: tuple[str, ...]
    weights: FloatArray
    """(n_experts, n_features)"""
    multiplier: float
    """The price of a unit of cost that was planned with."""

    def values(self, situation: Situation) -> FloatArray:
        """(n, n_experts), before the expert's own price; -inf for those heard."""
        values = np.full(situation.scores.shape, -np.inf)
        for expert in situation.unheard:
            values[:, expert] = situation.features(expert) @ self.weights[expert]
        return values

    def artifact(self, of: Manifest) -> Artifact:
        """`of`: the manifest of the learned vote that it was planned for."""
        settings = {"multiplier": self.multiplier}
        manifest = Manifest(
            "plan", self.expert_ids, of.data_digest, of.n_queries, settings=settings
        )
        return Artifact(manifest, {"weights": self.weights})

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Plan:
        manifest = artifact.manifest
        multiplier = float(manifest.settings["multiplier"])
        return cls(manifest.expert_ids, artifact.arrays["weights"], multiplier)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedVote:
    """Whoever is planned to be worth most is asked, while that is more than stopping is.

    1. The first expert is always asked.
    2. Stop once the leading answer is at least as likely right as the best of the values planned
       less that expert's price, `multiplier` times its cost.
    3. Otherwise ask the expert with that best value.

    Our own rule: the Lagrangian price of `PricedVote`, and in place of its look at one expert
    ahead a plan by backward induction, each value a least-squares regression shared by all sets of
    experts heard (as Longstaff and Schwartz 2001 value American options). Unlike a score, such a
    value knows that an answer heard makes another expert's agreement likely, and that a cheap
    expert may save a dear one. `planning` fits it.
    """

    cost: str
    plan: Plan
    model: VoteModel
    k_max: int = 5

    def __post_init__(self) -> None:
        cost_named(self.cost)
        at_least("k_max", self.k_max, 1)

    @property
    def name(self) -> str:
        return f"planned-vote-{self.plan.multiplier:g}"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        ids, planned = pool.ids, self.plan.expert_ids
        if set(ids) != set(planned):
            fix = "fit it again with `coe fit`"
            raise PoolMismatch("planned vote", ", ".join(planned), ", ".join(ids), fix)
        asked = {each.expert_id for each in heard}
        if len(asked) >= min(self.k_max, len(planned)):
            return None
        chances = self.model.chances(scores, pool, heard) if heard else {}
        lead, second = sorted((*chances.values(), 0.0, 0.0), reverse=True)[:2]
        columns = [ids.index(expert_id) for expert_id in planned]
        told = scores[columns][None, :]
        prices = self.plan.multiplier * costs_of(pool, self.cost)[columns]
        marks = np.array([expert_id in asked for expert_id in planned])
        values = self.plan.values(
            Situation(told, told - prices, marks, np.array([lead]), np.array([second]))
        )
        net = (values - prices)[0]
        best = int(net.argmax())
        if heard and net[best] <= lead:  # 2
            return None
        return planned[best]  # 1, 3
