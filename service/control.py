"""What a client says of how its request is to be handled, in headers beginning with `x-coe-`.

The same can be said in the body, under `coe`, which goes first; `wire` reads it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Scope

from coe.service.errors import InvalidRequest
from coe.store.keys import MOST_URGENT as MOST_URGENT

MOST_EXPERTS = 256
_PREFIX = b"x-coe-"
_WHOLE = re.compile(r"[+-]?\d{1,4}")
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Control:
    """What a client says of its request. None: nothing."""

    priority: int | None = None
    timeout_s: float | None = None
    """From its arrival to the last byte of the answer."""
    experts: tuple[str, ...] | None = None
    """Only these may answer."""
    policy: str | None = None
    """In place of the pool's own, as `coe eval --policy` takes it."""
    affinity: str | None = None
    """Requests of one name stay with one expert; "none" wants no such thing."""
    skips_cache: bool | None = None
    wants_progress: bool | None = None
    """To be told what happens until its stream begins."""

    def over(self, other: Control) -> Control:
        """This, and what it does not say from the other."""
        said = (
            mine if mine is not None else theirs
            for mine, theirs in zip(_values(self), _values(other), strict=True)
        )
        return Control(*said)  # type: ignore[arg-type]  # in the order of the fields


def _values(control: Control) -> tuple[object, ...]:
    return (
        control.priority,
        control.timeout_s,
        control.experts,
        control.policy,
        control.affinity,
        control.skips_cache,
        control.wants_progress,
    )


UNSAID = Control()


def control_of(scope: Scope) -> Control:
    """Raises `InvalidRequest` naming the header that is wrong."""
    told = {
        name[len(_PREFIX) :]: value.decode("latin-1").strip()
        for name, value in reversed(scope["headers"])
        if name.startswith(_PREFIX)
    }
    if not told:
        return UNSAID
    return Control(
        _priority(told.get(b"priority")),
        _timeout_s(told.get(b"timeout")),
        _experts(told.get(b"experts")),
        told.get(b"policy") or None,
        told.get(b"affinity") or None,
        _skips_cache(told.get(b"cache")),
        _wants_progress(told.get(b"progress")),
    )


def _priority(told: str | None) -> int | None:
    if told is None:
        return None
    if not _WHOLE.fullmatch(told) or abs(int(told)) > MOST_URGENT:
        raise _wrong("priority", f"a whole number from -{MOST_URGENT} to {MOST_URGENT}")
    return int(told)


def _timeout_s(told: str | None) -> float | None:
    if told is None:
        return None
    if not _SECONDS.fullmatch(told) or not float(told):
        raise _wrong("timeout", "a number of seconds above 0")
    return float(told)


def _experts(told: str | None) -> tuple[str, ...] | None:
    if told is None:
        return None
    experts = tuple(dict.fromkeys(part.strip() for part in told.split(",")))
    if not all(experts) or len(experts) > MOST_EXPERTS:
        raise _wrong("experts", f"up to {MOST_EXPERTS} ids, separated by commas")
    return experts


def _skips_cache(told: str | None) -> bool | None:
    if told is None:
        return None
    if told not in ("use", "skip"):
        raise _wrong("cache", "use or skip")
    return told == "skip"


def _wants_progress(told: str | None) -> bool | None:
    if told is None:
        return None
    if told not in ("true", "false"):
        raise _wrong("progress", "true or false")
    return told == "true"


def _wrong(name: str, wanted: str) -> InvalidRequest:
    header = f"x-coe-{name}"
    return InvalidRequest(f"the header {header} must be {wanted}", param=header)
