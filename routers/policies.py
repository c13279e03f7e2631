"""Policies: one row of scores becomes the experts to call, best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError, nearest
from coe.experts import ExpertPool
from coe.routing import FloatArray, Policy

POLICIES = ("top-1", "top-k")


@dataclass(frozen=True, slots=True)
class TopK:
    """The k experts with the highest scores; k = 1 routes, more recruit."""

    k: int = 1

    @property
    def name(self) -> str:
        return f"top-{self.k}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        # A stable sort of the negated scores keeps the pool's order among equals.
        order = np.argsort(-scores, kind="stable")[: self.k]
        return tuple(pool.experts[i].id for i in order)


def policy_named(kind: str, k: int = 1) -> Policy:
    """`top-1`, `top-k` with its k, or `top-3` for short; `ConfigError` names the nearest."""
    if kind == "top-k":
        return TopK(k)
    number = kind.removeprefix("top-")
    if number != kind and number.isdecimal() and int(number) >= 1:
        return TopK(int(number))
    guess = nearest(kind, POLICIES)
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise ConfigError(f"unknown policy {kind!r} (known: {', '.join(POLICIES)}, top-3 …){hint}")
