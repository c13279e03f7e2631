"""How a judge's words are read. What cannot be read is no opinion, and never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

Verdict = Literal["A>>B", "A>B", "A=B", "B>A", "B>>A"]

_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*10\s*)?\]\]")
_VERDICT = re.compile(r"\[\[\s*([AB])\s*(>>|>|=|<<|<)\s*([AB])\s*\]\]")
_TURNED = {">": "<", ">>": "<<", "<": ">", "<<": ">>", "=": "="}
_STRONG_WEIGHT = 3
"""A verdict of "much better" counts as three games, as in Arena-Hard."""


@dataclass(frozen=True, slots=True)
class Game:
    """One comparison, seen from the answer that is judged and not from the baseline."""

    won: float
    """1, 0, or one half for a tie."""
    weight: int


def read_rating(text: str) -> float | None:
    """The last grade from 1 to 10 that stands in double brackets."""
    found = _RATING.findall(text)
    rating = float(found[-1]) if found else None
    return rating if rating is not None and 1 <= rating <= 10 else None


def read_verdict(text: str) -> Verdict | None:
    """The last verdict in double brackets; `[[A<B]]` is `[[B>A]]`. Two that differ are none."""
    verdicts = {_verdict(*parts) for parts in _VERDICT.findall(text)}
    return verdicts.pop() if len(verdicts) == 1 else None


def game_of(verdict: Verdict, is_swapped: bool) -> Game:
    """`is_swapped`: the answer that is judged stood second."""
    winner = None if "=" in verdict else verdict[0]
    weight = _STRONG_WEIGHT if ">>" in verdict else 1
    if winner is None:
        return Game(0.5, weight)
    return Game(float((winner == "A") != is_swapped), weight)


def _verdict(first: str, sign: str, second: str) -> Verdict | None:
    if sign == "=" or first == second:
        return "A=B" if first != second else None
    if "<" in sign:
        first, second, sign = second, first, _TURNED[sign]
    return cast(Verdict, f"{first}{sign}{second}")
