"""A question with the answer that counts, and a benchmark of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from coe.errors import DatasetError
from coe.eval.datasets import Grade
from coe.types import Message, Query

ScorerName = Literal["choice", "numeric", "exact", "contains", "python", "judge"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and by what an answer is judged."""

    query: Query
    """Its text, options included, is what is routed and asked."""
    gold: str
    """A letter, a number, a text, or the source of a check; empty where a judge decides."""
    split: str = "test"
    options: tuple[str, ...] = ()
    """In the order of their letters; empty where there is nothing to choose from."""
    turns: tuple[str, ...] = ()
    """What is asked after the first answer, one thing after the other."""
    reference: str | None = None
    """An answer that a judge may compare with."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A worked example that stands before a question."""

    question: str
    solution: str
    """The reasoning, with the answer at its end as the benchmark wants it."""
    category: str | None = None


Score = Callable[[Question, str], Grade]
"""What a completion is worth."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Questions, and how they are put and judged. Read whole and checked, or not at all."""

    name: str
    questions: tuple[Question, ...]
    scorer: ScorerName
    score: Score
    """Of completions that no judge is needed for."""
    instruction: str = ""
    """Stands before the examples and the question; `{category}` becomes the query's subject."""
    shots: tuple[Shot, ...] = ()
    n_shots: int = 0
    """Most examples before one question, those of its own category first."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise DatasetError(f"{self.name}: there is no question to ask")

    @property
    def queries(self) -> tuple[Query, ...]:
        return tuple(question.query for question in self.questions)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(question.split for question in self.questions)

    @cached_property
    def by_id(self) -> Mapping[str, Question]:
        return {question.query.id: question for question in self.questions}

    def grade(self, query: Query, completion: str) -> Grade:
        return self.score(self.by_id[query.id], completion)

    def prompt(self, query: Query) -> tuple[Message, ...]:
        """One turn: the instruction, worked examples, the question."""
        told = self.instruction.replace("{category}", query.category or "various subjects")
        examples = [
            f"Question: {shot.question}\nAnswer: {shot.solution}"
            for shot in self._nearest_shots(query)
        ]
        own = f"Question: {query.text}\nAnswer:" if examples else query.text
        return (Message("user", "\n\n".join(part for part in (told, *examples, own) if part)),)

    def first(self, n: int | None, seed: int) -> Benchmark:
        """So many of the questions, drawn by seed and left in their order; None: all."""
        if n is None or n >= len(self.questions):
            return self
        drawn = np.random.default_rng(seed).permutation(len(self.questions))[:n]
        return replace(self, questions=tuple(self.questions[i] for i in sorted(drawn)))

    def digest(self) -> str:
        """A short name for these exact questions as they are put."""
        hasher = hashlib.sha256(self.scorer.encode())
        for question in self.questions:
            said = "\x1e".join(message.content for message in self.prompt(question.query))
            parts = (question.query.id, said, question.gold, *question.options, *question.turns)
            hasher.update("\x1f".join(parts).encode())
        return hasher.hexdigest()[:16]

    def _nearest_shots(self, query: Query) -> tuple[Shot, ...]:
        same = [shot for shot in self.shots if shot.category == query.category]
        others = [shot for shot in self.shots if shot.category is None]
        return tuple([*same, *others][: self.n_shots] if query.category else others[: self.n_shots])
