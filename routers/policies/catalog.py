"""Policies by the names and options that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coe.errors import ConfigError, nearest
from coe.routers.policies.adaptive import (
    AdaptiveVote,
    AskAll,
    Cascade,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    IndependentVotes,
)
from coe.routers.policies.budgets import Priced, WithinLimit
from coe.routers.policies.constraints import PerGroup, SessionAffinity
from coe.routers.policies.nulls import NullExperts
from coe.routers.policies.priced_vote import PricedVote
from coe.routers.policies.ranking import TopK
from coe.routers.policies.uncertainty import EntropySwitch, TopP
from coe.routing import AdaptivePolicy, Policy

Options = Mapping[str, Any]
Types = Mapping[str, type]

_AROUND: Types = {"cost": str, "limit": float, "multiplier": float, "switch_cost": float}
"""Options of every static policy: a limit per request, a price on cost, session affinity."""


@dataclass(frozen=True, slots=True)
class _Kind:
    build: Callable[..., Any]
    """Called with k and the options that were given."""
    options: Types
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Kinds of one sort, with errors that name the nearest."""

    sort: str
    kinds: Mapping[str, _Kind]
    further: Types = field(default_factory=dict)

    def built(self, kind: str, k: int, options: Options) -> Any:
        found = self.kinds.get(kind)
        if found is None:
            guess = nearest(kind, self.kinds)
            hint = f"; did you mean {guess!r}?" if guess else ""
            known = ", ".join(self.kinds)
            raise ConfigError(f"unknown {self.sort} {kind!r} (known: {known}, top-3 …){hint}")
        known_options = {**found.options, **self.further}
        own = {}
        for name, value in options.items():
            if name not in known_options:
                raise ConfigError(_unknown_option(self.sort, kind, name, known_options), key=name)
            checked = _checked(name, value, known_options[name])
            if name in found.options:
                own[name] = checked
        for name in found.required:
            if name not in own:
                raise ConfigError(f"{self.sort} {kind!r} needs the option {name!r}", key=name)
        return found.build(k, **own)


def _top_p(k: int, **options: Any) -> TopP:
    return TopP(**options)


def _entropy_switch(
    k: int, low: float, high: float, q: float = 1.1, falls_back: bool = False, **of_top_p: Any
) -> EntropySwitch:
    return EntropySwitch(low, high, TopP(**of_top_p), q, falls_back)


def _adaptive_vote(
    k: int,
    confidence: float = 0.9,
    lead: float | None = None,
    n_options: int = 10,
    trust: float = 1.0,
) -> AdaptiveVote:
    return AdaptiveVote(k, confidence, lead, IndependentVotes(n_options, trust))


def _priced_vote(
    k: int,
    cost: str,
    multiplier: float,
    patience: float = 0.0,
    n_options: int = 10,
    trust: float = 1.0,
) -> PricedVote:
    model = IndependentVotes(n_options, trust)
    return PricedVote(cost, multiplier, patience, k_max=k, model=model)


_TOP_P: Types = {"p": float, "k_max": int, "temperature": float, "shares": str}
_STATIC = _Kinds(
    "policy",
    {
        "top-1": _Kind(lambda k: TopK(1), {}),
        "top-k": _Kind(lambda k: TopK(k), {}),
        "top-p": _Kind(_top_p, _TOP_P),
        "entropy-switch": _Kind(
            _entropy_switch,
            {"low": float, "high": float, "q": float, "falls_back": bool, **_TOP_P},
            ("low", "high"),
        ),
        "null-experts": _Kind(
            lambda k, **options: NullExperts(k, **options), {"theta": float, "m": int}, ("theta",)
        ),
        "per-group": _Kind(
            lambda k, **options: PerGroup(k, **options),
            {"groups": dict, "per_group": int},
            ("groups",),
        ),
    },
    _AROUND,
)
_ADAPTIVE = _Kinds(
    "adaptive policy",
    {
        "fallback": _Kind(lambda k: FallbackOnUnreadable(k), {}),
        "vote": _Kind(lambda k, **options: EarlyStoppingVote(k, **options), {"max_calls": int}),
        "adaptive-vote": _Kind(
            _adaptive_vote,
            {"confidence": float, "lead": float, "n_options": int, "trust": float},
        ),
        "priced-vote": _Kind(
            _priced_vote,
            {
                "cost": str,
                "multiplier": float,
                "patience": float,
                "n_options": int,
                "trust": float,
            },
            ("cost", "multiplier"),
        ),
        "cascade": _Kind(
            lambda k, **options: Cascade(length=k, **options),
            {"cost": str, "threshold": float, "agreeing": int},
        ),
    },
)

POLICIES = tuple(_STATIC.kinds)
ADAPTIVE_POLICIES = tuple(_ADAPTIVE.kinds)


def policy_named(kind: str, k: int = 1, options: Options | None = None) -> Policy:
    """The static policy of that name; `top-3` is short for `top-k` with its k.

    Around any of them go `limit` (of `cost`, per request), `multiplier` (of `cost`, subtracted
    from scores) and `switch_cost` (of leaving a session's expert). Raises `ConfigError` naming
    the nearest name for an unknown kind or option.
    """
    given = dict(options or {})
    number = kind.removeprefix("top-")
    if number != kind and number.isdecimal() and int(number) >= 1:
        if k not in (1, int(number)):
            raise ConfigError(f"{kind} says how many experts, and k says {k}; use the kind 'top-k'")
        kind, k = "top-k", int(number)
    policy: Policy = _STATIC.built(kind, k, given)
    return _wrapped(policy, given)


def adaptive_policy_named(kind: str, k: int = 1, options: Options | None = None) -> AdaptivePolicy:
    """The adaptive policy of that name, or a static one asked one expert at a time."""
    number = kind.removeprefix("top-")
    if kind in _STATIC.kinds or (number != kind and number.isdecimal()):
        return AskAll(policy_named(kind, k, options))
    adaptive: AdaptivePolicy = _ADAPTIVE.built(kind, k, dict(options or {}))
    return adaptive


def _wrapped(policy: Policy, options: Options) -> Policy:
    """The price is innermost, so that a limit drops experts before they are ranked by it."""
    cost = options.get("cost")
    if cost is None and ("limit" in options or "multiplier" in options):
        raise ConfigError("limit and multiplier need a cost to count; add the option", key="cost")
    if "multiplier" in options:
        policy = Priced(policy, str(cost), float(options["multiplier"]))
    if "limit" in options:
        policy = WithinLimit(policy, str(cost), float(options["limit"]))
    if "switch_cost" in options:
        policy = SessionAffinity(policy, float(options["switch_cost"]))
    return policy


def _unknown_option(sort: str, kind: str, name: str, known: Types) -> str:
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"{sort} {kind!r} has no option {name!r} (it has {', '.join(known) or 'none'}){hint}"


def _checked(name: str, value: object, wanted: type) -> object:
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} is {value!r}; give a {wanted.__name__}", key=name)
    return value
