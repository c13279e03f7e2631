"""One expert's answer to one query of a live run, as the columns that are kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coe.errors import CoeError
from coe.eval.datasets import Grade
from coe.experts import Expert
from coe.types import Completion, Query

FURTHER = ("completion", "prompt_tokens", "completion_tokens", "e2el_s", "error")
"""What is kept beside the table of outcomes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An answer, or why there is none."""

    score: float = np.nan
    answer: str | None = None
    cost_usd: float = np.nan
    completion: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    e2el_s: float | None = None
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
        judged = grade(query, result.text)
        usage = result.usage
        return cls(
            score=judged.score,
            answer=judged.answer,
            cost_usd=expert.price.cost_usd(usage.prompt_tokens, usage.completion_tokens)
            if expert.price and usage
            else np.nan,
            completion=result.text,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            e2el_s=result.timing.e2el_s if result.timing else None,
        )
