"""Benchmarks as values: recorded answers of real models, and the zoo's questions.

Readers return complete frozen values or raise `DatasetError` naming the file and where such
data comes from; docs/data.md describes the files. Nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coe.errors import DatasetError
from coe.eval.llmrouter_mix import load_llmrouter_mix
from coe.eval.mmlu_pro import MMLU_PRO_SOURCE, load_mmlu_pro
from coe.eval.recorded import RecordedBenchmark
from coe.eval.tables import load_outcomes, save_outcomes
from coe.types import Query

__all__ = [
    "MMLU_PRO_SOURCE",
    "Grade",
    "QuestionSet",
    "RecordedBenchmark",
    "load_llmrouter_mix",
    "load_mmlu_pro",
    "load_outcomes",
    "load_zoo",
    "save_outcomes",
]


@dataclass(frozen=True, slots=True)
class Grade:
    """How one completion was judged."""

    score: float
    """0 to 1."""
    answer: str | None
    """What was read as the answer, for votes; None if nothing could be."""
    level: str | None = None
    """How it was read, in the scorer's words; None where there is but one way."""
    by_rule: float | None = None
    """The score under the reader of the benchmark's authors; None where they have none."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Queries to be really asked, with the answer that counts for each query id."""

    queries: tuple[Query, ...]
    answers: Mapping[str, str]
    splits: tuple[str, ...]
    """The split of each query."""

    def grade(self, query: Query, completion: str) -> Grade:
        """Exact match, as the zoo grades."""
        from coe.zoo.grading import is_correct

        correct = is_correct(self.answers[query.id], completion)
        return Grade(float(correct), completion.strip() or None)


def load_zoo(split: str | None = None) -> QuestionSet:
    """The zoo's questions of one split ("train", "test") or of both, field by field."""
    from coe.zoo.questions import zoo_questions

    try:
        questions = zoo_questions(split)
    except ValueError as error:
        raise DatasetError(f"zoo: {error}") from None
    return QuestionSet(
        queries=tuple(Query(q.text, q.id, q.field) for q in questions),
        answers={q.id: q.answer for q in questions},
        splits=tuple(q.split for q in questions),
    )
