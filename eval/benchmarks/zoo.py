"""The zoo's questions as a benchmark like others."""

from __future__ import annotations

from coe.eval.benchmarks.question import Benchmark, Question
from coe.eval.datasets import Grade, load_zoo


def zoo_benchmark(split: str | None = None) -> Benchmark:
    """One split ("train", "test") or both, graded as the zoo grades; put without any prompt."""
    asked = load_zoo(split)
    rows = zip(asked.queries, asked.splits, strict=True)

    def score(question: Question, completion: str) -> Grade:
        return asked.grade(question.query, completion)

    return Benchmark(
        name="zoo",
        questions=tuple(Question(q, asked.answers[q.id], split) for q, split in rows),
        scorer="exact",
        score=score,
    )
