"""One expert's answer to one query of a live run, as the columns that are kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coe.errors import CoeError
from coe.eval.datasets import Grade
from coe.experts import Expert
from coe.types import Completion, Query

FURTHER = (
    "completion",
    "level",
    "prompt_tokens",
    "completion_tokens",
    "ttft_s",
    "e2el_s",
    "energy_j",
    "error",
)
"""What is kept beside the table of outcomes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An answer, or why there is none."""

    score: float = np.nan
    answer: str | None = None
    cost_usd: float = np.nan
    completion: str | None = None
    level: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    e2el_s: float | None = None
    energy_j: float | None = None
    error: str | None = None

    @classmethod
    def of(
        cls,
        expert: Expert,
        query: Query,
        result: Completion | CoeError,
        grade: Callable[[Query, str], Grade],
    ) -> Cell:
        if isinstance(result, CoeError):
            return cls(error=str(result))
        return cls.of_graded(expert, result, grade(query, result.text))

    @classmethod
    def of_graded(
        cls, expert: Expert, answer: Completion, grade: Grade, energy_j: float | None = None
    ) -> Cell:
        usage, timing = answer.usage, answer.timing
        return cls(
            score=grade.score,
            answer=grade.answer,
            cost_usd=expert.price.cost_usd(usage.prompt_tokens, usage.completion_tokens)
            if expert.price and usage
            else np.nan,
            completion=answer.text,
            level=grade.level,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            ttft_s=timing.ttft_s if timing else None,
            e2el_s=timing.e2el_s if timing else None,
            energy_j=energy_j,
        )
