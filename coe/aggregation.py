"""Aggregators: several completions of one query become one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coe.types import Completion, GenerationRequest


class Aggregator(Protocol):
    """Turns several completions into one answer."""

    @property
    def name(self) -> str: ...

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        """`completions` are `(expert_id, completion)`, best expert first and never empty."""
        ...


class First:
    """The answer of the best expert that gave one."""

    name = "first"

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return completions[0][1].text


class MajorityVote:
    """The answer that most experts gave, compared without case and outer white space.

    Equal counts go to the answer whose best expert ranks first.
    """

    name = "majority"

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        counts: dict[str, int] = {}
        texts: dict[str, str] = {}
        for _, completion in completions:
            key = completion.text.strip().casefold()
            counts[key] = counts.get(key, 0) + 1
            texts.setdefault(key, completion.text)
        return texts[max(counts, key=lambda key: counts[key])]
