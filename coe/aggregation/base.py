"""What every aggregator promises, what some want besides, and the plainest one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from coe.types import Completion, Delta, GenerationRequest

Read = Callable[[str], str | None]
"""A completion's text → what it answers, equal for equal answers; None if it cannot be read."""


class Aggregator(Protocol):
    """Turns several completions into one answer."""

    @property
    def name(self) -> str: ...

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        """`completions` are `(expert_id, completion)`, best expert first and never empty."""
        ...


@runtime_checkable
class WantsScores(Protocol):
    """An aggregator that weighs experts by what the router expected of them on the query."""

    def with_scores(self, scores: Mapping[str, float]) -> Aggregator:
        """The aggregator for one query; `scores` is expert → score, the whole pool."""
        ...


@runtime_checkable
class AsksInTurn(Protocol):
    """An aggregator whose experts are asked one after the other, each seeing the one before."""

    def next_request(
        self, request: GenerationRequest, heard: Sequence[tuple[str, Completion]]
    ) -> GenerationRequest:
        """What to ask the next expert; `heard` is in the order asked, empty at first."""
        ...


@runtime_checkable
class Writes(Protocol):
    """An aggregator whose answer is written anew by an expert that reads all the others'."""

    @property
    def writer(self) -> str:
        """That expert's id."""
        ...

    @property
    def otherwise(self) -> Aggregator:
        """Decides in the writer's place."""
        ...

    def write(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> AsyncIterator[Delta]:
        """The answer piece by piece, with the usage of its writing alone. Ends and fails as the
        stream of an engine.
        """
        ...


@runtime_checkable
class StopsEarly(Protocol):
    """An aggregator whose answer may be decided before all experts asked together are done."""

    def is_settled(self, done: Mapping[int, Completion], n_asked: int) -> bool:
        """Whether those still out can no longer change the answer, so that they may be stopped.

        `done` holds the completions that are there, by rank from 0, the best expert's, to
        `n_asked` - 1. Once True, `aggregate` of those, best first, gives the answer that it would
        give of all, if perhaps in another expert's words. Leave an expert that failed out of the
        ranks and of `n_asked`: one that is never done keeps its vote open.
        """
        ...


class First:
    """The answer of the best expert whose answer can be read; the best one's if none can."""

    name = "first"

    def __init__(self, read: Read | None = None) -> None:
        """`read` None takes any completion for an answer."""
        self._read = read or str

    def is_settled(self, done: Mapping[int, Completion], n_asked: int) -> bool:
        for rank in range(n_asked):
            if rank not in done:
                return False
            if self._read(done[rank].text) is not None:
                return True
        return True

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        readable = (c.text for _, c in completions if self._read(c.text) is not None)
        return next(readable, completions[0][1].text)
