"""The section `reliability`: the pool's rules, and what one expert has instead."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from coe.config.schema import BreakerModel, ReliabilityModel, RetriesModel
from coe.errors import ConfigError
from coe.reliability import UNGUARDED, BreakerRules, Reliability, RetryRules

_BUDGET = ("budget_share", "budget_reserve", "failover_reserve")
_Rules = TypeVar("_Rules", RetryRules, BreakerRules)


def pool_reliability(parsed: ReliabilityModel, file: Path) -> Reliability:
    """What experts have that others host, where they do not say otherwise."""
    return _told(parsed, Reliability(), Reliability(), file, "reliability")


def expert_reliability(
    parsed: ReliabilityModel, pool: Reliability, is_remote: bool, file: Path, key: str
) -> Reliability:
    """An expert's own rules: the pool's for one that others host, changed where it says so.

    One that is hosted here has only what it names.
    """
    named = parsed.retries.model_fields_set if parsed.retries is not None else ()
    for name in _BUDGET:
        if name in named:
            raise ConfigError(
                f"the budget of retries is the whole pool's; set `{name}` under `reliability` at "
                "the top of the file",
                file=str(file),
                key=f"{key}.retries.{name}",
            )
    return _told(parsed, pool if is_remote else UNGUARDED, pool, file, key)


def _told(
    parsed: ReliabilityModel, usual: Reliability, base: Reliability, file: Path, key: str
) -> Reliability:
    """`usual` where nothing is said; `base` is what a rule that says a little is made of."""
    retries, breaker = usual.retries, usual.breaker
    if "retries" in parsed.model_fields_set:
        retries = _changed(base.retries or RetryRules(), parsed.retries, file, f"{key}.retries")
    if "breaker" in parsed.model_fields_set:
        breaker = _changed(base.breaker or BreakerRules(), parsed.breaker, file, f"{key}.breaker")
    return Reliability(retries, breaker)


def _changed(
    rules: _Rules, parsed: RetriesModel | BreakerModel | None, file: Path, key: str
) -> _Rules | None:
    if parsed is None:
        return None
    try:
        return type(rules)(**{**asdict(rules), **parsed.model_dump(exclude_unset=True)})
    except ConfigError as error:
        raise ConfigError(error.problem, file=str(file), key=key) from None
