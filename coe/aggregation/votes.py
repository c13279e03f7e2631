"""Votes: answers are compared, and one of the completions that gave the winner is returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from coe.aggregation.base import Read
from coe.errors import ConfigError
from coe.types import Completion, GenerationRequest
from coe.votes import folded, is_settled

_SUREST = 0.99
"""Scores are clipped to 0.01 and 0.99, so that no single expert outvotes all others."""


class MajorityVote:
    """The answer that most experts gave; equal counts go to the one whose best expert ranks first.

    Without `read`, completions are compared whole, without case and outer white space. With it, a
    completion that cannot be read has no vote; if none can, the best expert's is the answer.
    """

    name = "majority"

    def __init__(self, read: Read | None = None) -> None:
        self._read = read or folded

    def is_settled(self, done: Mapping[int, Completion], n_asked: int) -> bool:
        return is_settled({rank: self._read(c.text) for rank, c in done.items()}, n_asked)

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return _elected([(self._read(c.text), 1.0, c.text) for _, c in completions])


class WeightedVote:
    """A vote in which each expert weighs the log-odds of its being right.

    The odds are against any one wrong answer out of `n_options`, evenly: log(p (m - 1) / (1 - p)),
    which is the optimal weight for independent experts, and the plain log-odds for m = 2. An
    expert worse than chance counts against its answer. An expert without a probability has 0.5.
    """

    name = "weighted"

    def __init__(
        self, chances: Mapping[str, float], read: Read | None = None, n_options: int = 10
    ) -> None:
        """`chances`: expert → probability of being right, on any query or on this one."""
        if n_options < 2:
            raise ConfigError(f"n_options is {n_options}; give at least 2", key="n_options")
        self._chances = chances
        self._read = read or folded
        self._n_options = n_options

    def with_scores(self, scores: Mapping[str, float]) -> WeightedVote:
        """For one query, scores being probabilities; none at all keep the given ones."""
        return WeightedVote(scores or self._chances, self._read, self._n_options)

    def weight(self, expert_id: str) -> float:
        p = min(max(self._chances.get(expert_id, 0.5), 1 - _SUREST), _SUREST)
        return log(p * (self._n_options - 1) / (1 - p))

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return _elected([(self._read(c.text), self.weight(id_), c.text) for id_, c in completions])


def _elected(votes: Sequence[tuple[str | None, float, str]]) -> str:
    """The text of the first of the answers with the highest sum of weights."""
    weights: dict[str, float] = {}
    texts: dict[str, str] = {}
    for answer, weight, text in votes:
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + weight
            texts.setdefault(answer, text)
    if not weights:
        return votes[0][2]
    return texts[max(weights, key=lambda answer: weights[answer])]
