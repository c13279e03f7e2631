"""Win rates against a baseline, as they are and with style held equal.

Style is how long an answer is and how much markdown it has. As in Arena-Hard's style control, the
chance of winning a game is the logistic function of a strength for each subject and of weights for
four differences of style, which all subjects share. The differences are scaled and not centred, so
that a subject's strength says how it fares where both answers have the same style.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coe.eval.intervals import bootstrap_mean
from coe.eval.judges.opinions import Game
from coe.outcomes import FloatArray

_FENCED = re.compile(r"```[\s\S]*?(?:```|\Z)")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:[-*+]|\d+\.)\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
_RIDGE = 0.1
"""Pull of all weights towards zero, so that a subject that wins every game has a finite one."""
_MOST_STEPS = 100


@dataclass(frozen=True, slots=True)
class Style:
    """What an answer looks like. Code does not count as markdown."""

    n_words: int
    n_headers: int
    n_lists: int
    n_bold: int

    @classmethod
    def of(cls, text: str) -> Style:
        prose = _FENCED.sub("", text)
        counts = (len(pattern.findall(prose)) for pattern in (_HEADER, _LIST, _BOLD))
        return cls(len(text.split()), *counts)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One question: both games, and how both answers look."""

    subject: str
    games: tuple[Game, ...]
    style: Style
    baseline_style: Style

    @property
    def score(self) -> float:
        """Share of the games won, weighted; NaN without any."""
        weight = sum(game.weight for game in self.games)
        return sum(game.won * game.weight for game in self.games) / weight if weight else np.nan


@dataclass(frozen=True, slots=True)
class WinRate:
    """How a subject fares against the baseline."""

    subject: str
    n: int
    """Questions with an opinion."""
    raw: float
    low: float
    high: float
    style_controlled: float
    """NaN where no game was read."""
    consistent: float
    """Share of questions in whose two games, with the answers swapped, the same side was not
    worse; NaN without any."""


def win_rates(compared: Sequence[Compared], seed: int = 0) -> tuple[WinRate, ...]:
    """One for each subject, in order of appearance."""
    subjects = tuple(dict.fromkeys(each.subject for each in compared))
    controlled = style_controlled(compared)
    rates = []
    for subject in subjects:
        own = [each for each in compared if each.subject == subject]
        interval = bootstrap_mean(
            np.array([each.score for each in own], float), np.random.default_rng(seed)
        )
        pairs = [each.games for each in own if len(each.games) == 2]
        agreeing = [abs(first.won - second.won) < 1.0 for first, second in pairs]
        rates.append(
            WinRate(
                subject,
                interval.n,
                interval.mean,
                interval.low,
                interval.high,
                controlled[subject],
                float(np.mean(agreeing)) if agreeing else np.nan,
            )
        )
    return tuple(rates)


def style_controlled(compared: Sequence[Compared]) -> Mapping[str, float]:
    """Subject → its chance of winning where both answers look alike; NaN where nothing was read."""
    subjects = tuple(dict.fromkeys(each.subject for each in compared))
    games = [(each, game) for each in compared for game in each.games]
    if not games:
        return dict.fromkeys(subjects, np.nan)
    strengths = np.array([[each.subject == s for s in subjects] for each, _ in games], float)
    styles = np.array([_differences(each) for each, _ in games], float)
    spread = np.sqrt((styles**2).mean(axis=0))
    design = np.hstack([strengths, styles / np.where(spread > 0, spread, 1.0)])
    won = np.array([game.won for _, game in games])
    weights = np.array([game.weight for _, game in games], float)
    fitted = fit_logistic(design, won, weights)[: len(subjects)]
    read = {each.subject for each, _ in games}
    chances = 1.0 / (1.0 + np.exp(-fitted))
    return {s: float(p) if s in read else np.nan for s, p in zip(subjects, chances, strict=True)}


def fit_logistic(design: FloatArray, won: FloatArray, weights: FloatArray) -> FloatArray:
    """(n_columns,) of a logistic regression with a ridge, by Newton's method.

    `design` (n_games, n_columns), `won` 0 to 1, `weights` how often each game counts.
    """
    beta = np.zeros(design.shape[1])
    ridge = _RIDGE * np.eye(design.shape[1])
    for _ in range(_MOST_STEPS):
        chances = 1.0 / (1.0 + np.exp(-(design @ beta)))
        gradient = design.T @ (weights * (won - chances)) - _RIDGE * beta
        curvature = (design * (weights * chances * (1 - chances))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            break
    return beta


def _differences(each: Compared) -> tuple[float, ...]:
    """Of length relative to both, and of markdown for each word, as Arena-Hard takes them."""
    own, other = each.style, each.baseline_style
    length = (own.n_words - other.n_words) / max(1, own.n_words + other.n_words)
    pairs = zip(_densities(own), _densities(other), strict=True)
    return (length, *((mine - theirs) / (mine + theirs + 1) for mine, theirs in pairs))


def _densities(style: Style) -> tuple[float, float, float]:
    words = max(1, style.n_words)
    return style.n_headers / words, style.n_lists / words, style.n_bold / words
