"""Every kind of policy: what it is, which options it takes, and how it is built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coe.errors import ConfigError
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies.adaptive import (
    AdaptiveVote,
    Cascade,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    IndependentVotes,
    VoteModel,
)
from coe.routers.policies.constraints import PerGroup
from coe.routers.policies.nulls import NullExperts
from coe.routers.policies.planned_vote import Plan, PlannedVote
from coe.routers.policies.priced_vote import PricedVote
from coe.routers.policies.ranking import TopK
from coe.routers.policies.uncertainty import EntropySwitch, TopP
from coe.routers.symbolic_recruitment import Recruit

Types = Mapping[str, type]

AROUND: Types = {
    "cost": str,
    "limit": float,
    "multiplier": float,
    "switch_cost": float,
    "experts": str,
}
"""Options of every static kind: a limit per request, a price on cost, session affinity, and the
experts that are considered at all, as `a+b+c`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of policy, as files and command lines may ask for it."""

    description: str
    build: Callable[..., Any]
    """Called with k, a vote model or None, and the options of its own that were given."""
    options: Types = field(default_factory=dict)
    required: tuple[str, ...] = ()
    tuned_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What tuning can be asked to keep on average → the options that it finds for that."""
    usual_k: int = 1
    is_adaptive: bool = False
    takes_model: bool = False
    k_is: str | None = None
    """What to give instead of k, where the kind reads none."""

    @property
    def known_options(self) -> Types:
        """Its own, those around it and what it can be tuned for."""
        around = {"experts": str} if self.is_adaptive else AROUND
        return {**self.options, **around, **dict.fromkeys(self.tuned_for, float)}


def _adaptive_vote(
    k: int,
    model: VoteModel | None,
    confidence: float = 0.9,
    lead: float | None = None,
    **of_model: Any,
) -> AdaptiveVote:
    return AdaptiveVote(k, confidence, lead, model or IndependentVotes(**of_model))


def _priced_vote(
    k: int,
    model: VoteModel | None,
    cost: str,
    multiplier: float,
    patience: float = 0.0,
    **of_model: Any,
) -> PricedVote:
    vote = model or IndependentVotes(**of_model)
    return PricedVote(cost, multiplier, patience, k_max=k, model=vote)


def _planned_vote(k: int, model: VoteModel | None, cost: str, multiplier: float) -> PlannedVote:
    if not isinstance(model, LearnedVote) or model.plan is None:
        raise ConfigError(
            "a planned vote is fitted together with a learned vote; set the aggregator to learned "
            "and fit it with `coe fit`"
        )
    plan = Plan.of_artifact(model.plan)
    if plan.multiplier != multiplier:
        raise ConfigError(
            f"planned for a multiplier of {plan.multiplier:g}, not {multiplier:g}; fit it again "
            "with `coe fit`",
            key="multiplier",
        )
    return PlannedVote(cost, plan, model, k)


def _entropy_switch(
    low: float, high: float, q: float = 1.1, falls_back: bool = False, **of_top_p: Any
) -> EntropySwitch:
    return EntropySwitch(low, high, TopP(**of_top_p), q, falls_back)


_TOP_P: Types = {"p": float, "k_max": int, "temperature": float, "shares": str}
_OF_MODEL: Types = {"n_options": int, "trust": float}
_BUDGET = {"budget": ("multiplier",)}

KINDS: Mapping[str, Kind] = {
    "top-1": Kind(
        "the best expert", lambda k, _: TopK(1), tuned_for=_BUDGET, k_is="use the kind 'top-k'"
    ),
    "top-k": Kind(
        "the k best experts; top-3 is short for top-k:k=3",
        lambda k, _: TopK(k),
        tuned_for=_BUDGET,
        usual_k=3,
    ),
    "top-p": Kind(
        "the fewest experts whose scores add up to a share p, at most k_max",
        lambda k, _, **options: TopP(**options),
        _TOP_P,
        k_is="give the option k_max",
    ),
    "entropy-switch": Kind(
        "one expert where scores are clear, those of top-p where less so, else k_max or the "
        "fallback",
        lambda k, _, **options: _entropy_switch(**options),
        {"low": float, "high": float, "q": float, "falls_back": bool, **_TOP_P},
        ("low", "high"),
        k_is="give the option k_max",
    ),
    "null-experts": Kind(
        "the k best of the experts and of as many empty places as theta and m say",
        lambda k, _, **options: NullExperts(k, **options),
        {"theta": float, "m": int},
        ("theta",),
        usual_k=2,
    ),
    "per-group": Kind(
        "the k best experts of which at most per_group share a group",
        lambda k, _, **options: PerGroup(k, **options),
        {"groups": dict, "per_group": int},
        ("groups",),
        usual_k=2,
    ),
    "recruit": Kind(
        "k draws from the scores as probabilities, as Symbolic-MoE recruits",
        lambda k, _, **options: Recruit(k, **options),
        {"seed": int},
        usual_k=3,
    ),
    "fallback": Kind(
        "the best expert, and the next best while no answer can be read, at most k",
        lambda k, _: FallbackOnUnreadable(k),
        usual_k=2,
        is_adaptive=True,
    ),
    "vote": Kind(
        "the k best experts in turn, until the rest cannot change the majority",
        lambda k, _, **options: EarlyStoppingVote(k, **options),
        {"max_calls": int},
        usual_k=3,
        is_adaptive=True,
    ),
    "adaptive-vote": Kind(
        "the best experts in turn, at most k, until the leading answer is likely enough right",
        _adaptive_vote,
        {"confidence": float, "lead": float, **_OF_MODEL},
        tuned_for={"calls": ("confidence", "lead")},
        usual_k=5,
        is_adaptive=True,
        takes_model=True,
    ),
    "priced-vote": Kind(
        "cheap experts first, dear ones, at most k in all, while they are worth their price",
        _priced_vote,
        {"cost": str, "multiplier": float, "patience": float, **_OF_MODEL},
        ("cost", "multiplier"),
        tuned_for={"budget": ("multiplier", "patience")},
        usual_k=5,
        is_adaptive=True,
        takes_model=True,
    ),
    "planned-vote": Kind(
        "whoever a plan values most, at most k, while asking is worth its price; needs the "
        "learned vote",
        _planned_vote,
        {"cost": str, "multiplier": float},
        ("cost", "multiplier"),
        tuned_for={"budget": ("multiplier",)},
        usual_k=5,
        is_adaptive=True,
        takes_model=True,
    ),
    "cascade": Kind(
        "the k best experts from the cheapest on, until one is trusted or several agree",
        lambda k, _, **options: Cascade(length=k, **options),
        {"cost": str, "threshold": float, "agreeing": int},
        usual_k=3,
        is_adaptive=True,
    ),
}
