"""Votes: answers are compared, and one of the completions that gave the winner is returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from coe.aggregation.base import Read
from coe.errors import ConfigError
from coe.types import Completion, GenerationRequest

_SUREST = 0.99
"""Scores are clipped to 0.01 and 0.99, so that no single expert outvotes all others."""


def _folded(text: str) -> str:
    return text.strip().casefold()


class MajorityVote:
    """The answer that most experts gave; equal counts go to the one whose best expert ranks first.

    Without `read`, completions are compared whole, without case and outer white space. With it, a
    completion that cannot be read has no vote; if none can, the best expert's is the answer.
    """

    name = "majority"

    def __init__(self, read: Read | None = None) -> None:
        self._read = read or _folded

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
        self._read = read or _folded
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


def is_settled(votes: Mapping[int, str | None], n_asked: int) -> bool:
    """Whether a majority vote of `n_asked` experts can no longer change, so the rest may stop.

    `votes` holds, by rank from 0, what the experts that are done answered; None is no vote.
    """
    counts: dict[str, int] = {}
    best_rank: dict[str, int] = {}
    for rank in sorted(votes):
        answer = votes[rank]
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
            best_rank.setdefault(answer, rank)
    missing = [rank for rank in range(n_asked) if rank not in votes]
    if not missing:
        return True
    if not counts:
        return False
    leader = max(counts, key=lambda answer: counts[answer])

    def is_beaten(count: int, rank: int) -> bool:
        level = counts[leader] == count
        return counts[leader] < count or (level and rank < best_rank[leader])

    # At worst all that is missing votes for one rival, or for an answer not heard yet.
    rivals = [(counts[a] + len(missing), min(best_rank[a], missing[0])) for a in counts]
    unheard = (len(missing), missing[0])
    others = [rival for answer, rival in zip(counts, rivals, strict=True) if answer != leader]
    return not any(is_beaten(*rival) for rival in (*others, unheard))


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
