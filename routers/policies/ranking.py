"""The plain policy, and what every other one starts from: an order and a distribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coe.errors import ConfigError
from coe.experts import ExpertPool
from coe.outcomes import IntArray
from coe.routing import FloatArray


@dataclass(frozen=True, slots=True)
class TopK:
    """The k experts with the highest scores; k = 1 routes, more recruit."""

    k: int = 1

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)

    @property
    def name(self) -> str:
        return f"top-{self.k}"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        return named(best_first(scores)[: self.k], pool)


def best_first(scores: FloatArray) -> IntArray:
    """Columns by falling score; equal scores keep the pool's order."""
    # A stable sort of the negated scores keeps the earlier of equals first.
    order: IntArray = np.argsort(-scores, kind="stable")
    return order


def named(columns: Iterable[int] | IntArray, pool: ExpertPool) -> tuple[str, ...]:
    return tuple(pool.experts[column].id for column in columns)


def softmax(scores: FloatArray, temperature: float = 1.0) -> FloatArray:
    """(n_experts,) shares that add up to 1; a low temperature sharpens them."""
    powers = np.exp((scores - scores.max()) / temperature)
    shares: FloatArray = powers / powers.sum()
    return shares


def proportions(scores: FloatArray, temperature: float = 1.0) -> FloatArray:
    """(n_experts,) scores over their sum, raised to 1 / temperature first.

    Negative scores count as 0; even shares if nothing is left.
    """
    top = float(scores.max())
    if top <= 0:
        return np.full(len(scores), 1.0 / len(scores))
    powers = (np.maximum(scores, 0.0) / top) ** (1.0 / temperature)
    shares: FloatArray = powers / powers.sum()
    return shares


def at_least(option: str, value: float, least: float) -> None:
    """Raises `ConfigError` naming the option if its value is too small."""
    if not value >= least:
        raise ConfigError(f"{option} is {value:g}; give at least {least:g}", key=option)


def above_zero(option: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{option} is {value:g}; give more than 0", key=option)


def within_unit(option: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{option} is {value:g}; give 0 to 1", key=option)
