"""Policies: one row of scores becomes the experts to call, best first.

Static ones choose before anything is asked; adaptive ones (`adaptive`) are asked again after each
answer. Which options a configuration may give is decided in `catalog`.
"""

from __future__ import annotations

from coe.routers.policies.adaptive import (
    AdaptiveVote,
    AskAll,
    Cascade,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    IndependentVotes,
    VoteModel,
    majority,
)
from coe.routers.policies.budgets import COSTS, Priced, WithinLimit, costs_of, fit_multiplier
from coe.routers.policies.catalog import (
    ADAPTIVE_POLICIES,
    DESCRIPTIONS,
    POLICIES,
    PolicySpec,
    check_spec,
    policy_of,
    usual_k,
)
from coe.routers.policies.constraints import PerGroup, SessionAffinity
from coe.routers.policies.guard import GuardedScorer
from coe.routers.policies.nulls import NullExperts, fit_theta
from coe.routers.policies.planned_vote import PlannedVote
from coe.routers.policies.priced_vote import PricedVote
from coe.routers.policies.ranking import TopK
from coe.routers.policies.replay import Replayed, replay, verdict_scores
from coe.routers.policies.restricted import AdaptiveAmong, Among
from coe.routers.policies.uncertainty import EntropySwitch, TopP, tsallis_entropy

__all__ = [
    "ADAPTIVE_POLICIES",
    "COSTS",
    "DESCRIPTIONS",
    "POLICIES",
    "AdaptiveAmong",
    "AdaptiveVote",
    "Among",
    "AskAll",
    "Cascade",
    "EarlyStoppingVote",
    "EntropySwitch",
    "FallbackOnUnreadable",
    "GuardedScorer",
    "IndependentVotes",
    "NullExperts",
    "PerGroup",
    "PlannedVote",
    "PolicySpec",
    "Priced",
    "PricedVote",
    "Replayed",
    "SessionAffinity",
    "TopK",
    "TopP",
    "VoteModel",
    "WithinLimit",
    "check_spec",
    "costs_of",
    "fit_multiplier",
    "fit_theta",
    "majority",
    "policy_of",
    "replay",
    "tsallis_entropy",
    "usual_k",
    "verdict_scores",
]
