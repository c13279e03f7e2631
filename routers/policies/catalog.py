"""Policies by the names and options that files and command lines give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from coe.errors import ConfigError, nearest
from coe.routers.policies.adaptive import VoteModel
from coe.routers.policies.budgets import Priced, WithinLimit, cost_named
from coe.routers.policies.constraints import SessionAffinity
from coe.routers.policies.kinds import KINDS, Kind, Types
from coe.routers.policies.restricted import AdaptiveAmong, Among
from coe.routing import AdaptivePolicy, Policy

Options = Mapping[str, Any]

POLICIES = tuple(name for name, kind in KINDS.items() if not kind.is_adaptive)
ADAPTIVE_POLICIES = tuple(name for name, kind in KINDS.items() if kind.is_adaptive)
DESCRIPTIONS: Mapping[str, str] = {name: kind.description for name, kind in KINDS.items()}
"""One line each, as a help text says it."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy by name: kind, k and options, as files and command lines give it."""

    kind: str
    k: int = 1
    options: Options = field(default_factory=dict)

    @classmethod
    def parsed(cls, text: str) -> PolicySpec:
        """`kind`, or `kind:option=value:…` where k is an option like any other.

        A value that reads as a number, `true` or `false` is one. Without k it is the kind's usual
        one. Raises `ConfigError` naming the part that is wrong; names are checked by `check_spec`.
        """
        kind, *parts = text.split(":")
        options: dict[str, Any] = {}
        for part in parts:
            name, equals, value = part.partition("=")
            if not (name and equals and value):
                raise ConfigError(f"{part!r} in {text!r} is no option; write it as name=value")
            if name in options:
                raise ConfigError(f"{name!r} is given twice in {text!r}", key=name)
            options[name] = _value(value)
        k = options.pop("k", usual_k(kind))
        if isinstance(k, bool) or not isinstance(k, int):
            raise ConfigError(f"k is {k!r} in {text!r}; give a whole number", key="k")
        return cls(kind, k, options)

    def __str__(self) -> str:
        """As `parsed` reads it; tables such as `groups` can be given in files only."""
        k = () if self.k == usual_k(self.kind) else (f"k={self.k}",)
        told = (f"{name}={_text(value)}" for name, value in self.options.items())
        return ":".join((self.kind, *k, *told))

    @property
    def is_tuned(self) -> bool:
        """False while mean `calls` or a mean `budget` are still to be turned into numbers."""
        return not {"calls", "budget"} & set(self.options)

    @property
    def experts(self) -> tuple[str, ...] | None:
        """The experts that are considered; None: all of the pool."""
        named = self.options.get("experts")
        return None if named is None else tuple(str(named).split("+"))


def usual_k(kind: str) -> int:
    """The k of a kind where none is given; 1 for a kind that is not known."""
    return KINDS[kind].usual_k if kind in KINDS else 1


def check_spec(spec: PolicySpec) -> None:
    """Raises `ConfigError` for a wrong name or type, in specs that are not tuned yet, too."""
    spec = spelt_out(spec)
    kind = _kind_named(spec.kind)
    for name, value in spec.options.items():
        if name not in kind.known_options:
            raise ConfigError(_unknown_option(spec.kind, name, kind.known_options), key=name)
        _check_type(name, value, kind.known_options[name])
    if spec.k < 1:
        raise ConfigError(f"k is {spec.k}; give at least 1", key="k")
    if kind.k_is is not None and spec.k != kind.usual_k:
        raise ConfigError(f"policy {spec.kind!r} reads no k; {kind.k_is}", key="k")
    found = _found_by_tuning(kind, spec)
    for name in kind.required:
        if name not in spec.options and name not in found:
            raise ConfigError(f"policy {spec.kind!r} needs the option {name!r}", key=name)
    _check_cost(spec.options)
    if spec.experts is not None and (
        "" in spec.experts or len(set(spec.experts)) != len(spec.experts)
    ):
        raise ConfigError("name each expert once, as a+b+c", key="experts")


def policy_of(spec: PolicySpec, model: VoteModel | None = None) -> Policy | AdaptivePolicy:
    """The policy of a tuned spec; `top-3` is short for `top-k` with its k.

    `model` judges the votes of kinds that take one, in place of `IndependentVotes` and its
    options. Around static kinds go `limit` (of `cost`, per request), `multiplier` (of `cost`,
    subtracted from scores) and `switch_cost` (of leaving a session's expert); `experts` leaves
    out all others. Raises `ConfigError` naming the nearest name for an unknown kind or option,
    and for a spec that is not tuned.
    """
    check_spec(spec)
    spec = spelt_out(spec)
    for name in ("calls", "budget"):
        if name in spec.options:
            raise ConfigError(
                f"{name} is a mean that numbers must be found for on recorded outcomes; `coe fit` "
                f"tunes it",
                key=name,
            )
    kind = KINDS[spec.kind]
    own = {name: value for name, value in spec.options.items() if name in kind.options}
    built = kind.build(spec.k, model, **own)
    if not kind.is_adaptive:
        return _wrapped(built, spec)
    adaptive: AdaptivePolicy = built
    return adaptive if spec.experts is None else AdaptiveAmong(adaptive, spec.experts)


def spelt_out(spec: PolicySpec) -> PolicySpec:
    """With `top-3` as `top-k`."""
    number = spec.kind.removeprefix("top-")
    if spec.kind in KINDS or number == spec.kind or not number.isdecimal() or int(number) < 1:
        return spec
    if spec.k not in (1, int(number)):
        raise ConfigError(
            f"{spec.kind} says how many experts, and k says {spec.k}; use the kind 'top-k'", key="k"
        )
    return PolicySpec("top-k", int(number), spec.options)


def _kind_named(name: str) -> Kind:
    if name not in KINDS:
        guess = nearest(name, KINDS)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown policy {name!r} (known: {', '.join(KINDS)}, top-3 …){hint}")
    return KINDS[name]


def _found_by_tuning(kind: Kind, spec: PolicySpec) -> tuple[str, ...]:
    """The options that tuning will find; giving them as well is an error."""
    for wanted, found in kind.tuned_for.items():
        if wanted not in spec.options:
            continue
        if spec.options[wanted] <= 0:
            raise ConfigError(f"{wanted} is {spec.options[wanted]:g}; give more than 0", key=wanted)
        for name in found:
            if name in spec.options:
                raise ConfigError(f"{name} is found for {wanted}; give one of them", key=name)
        return found
    return ()


def _check_cost(options: Options) -> None:
    needs = [name for name in ("limit", "multiplier", "budget") if name in options]
    if needs and "cost" not in options:
        raise ConfigError(f"{needs[0]} needs a cost to count; add the option", key="cost")
    if "cost" in options:
        cost_named(options["cost"])


def _wrapped(policy: Policy, spec: PolicySpec) -> Policy:
    """The price is innermost, so that a limit drops experts before they are ranked by it."""
    options = spec.options
    if "multiplier" in options:
        policy = Priced(policy, options["cost"], float(options["multiplier"]))
    if "limit" in options:
        policy = WithinLimit(policy, options["cost"], float(options["limit"]))
    if spec.experts is not None:
        policy = Among(policy, spec.experts)
    if "switch_cost" in options:
        policy = SessionAffinity(policy, float(options["switch_cost"]))
    return policy


def _unknown_option(kind: str, name: str, known: Types) -> str:
    guess = nearest(name, known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"policy {kind!r} has no option {name!r} (it has {', '.join(known) or 'none'}){hint}"


def _check_type(name: str, value: object, wanted: type) -> None:
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{name} is {value!r}; give a {wanted.__name__}", key=name)


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    if not isfinite(number):
        return text
    return int(text) if text.lstrip("+-").isdecimal() else number


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
