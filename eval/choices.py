"""Multiple-choice questions to be really asked: prompt, reading of the letter, grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coe.errors import DatasetError
from coe.eval.answers import LETTERS, read_letter
from coe.eval.datasets import MMLU_PRO_SOURCE, Grade
from coe.eval.files import read_parquet
from coe.types import Query

_COLUMNS = ("question_id", "category", "question", "options", "answer", "split")
_INSTRUCTION = 'Think step by step and end with "The answer is (X)", X being the letter.'


@dataclass(frozen=True, slots=True)
class ChoiceQuestions:
    """Queries whose text holds question and options, and how their completions are judged."""

    queries: tuple[Query, ...]
    answers: Mapping[str, str]
    """The right letter of each query id."""
    options: Mapping[str, tuple[str, ...]]
    splits: tuple[str, ...]
    """The split of each query."""

    def grade(self, query: Query, completion: str) -> Grade:
        """One for the right letter; a letter that cannot be read is wrong, and no answer."""
        letter = read_letter(completion, self.options[query.id]).letter
        return Grade(float(letter == self.answers[query.id]), letter)


def load_mmlu_pro_questions(folder: Path, split: str | None = None) -> ChoiceQuestions:
    """MMLU-Pro's questions of one split, or of all, asked without examples (zero-shot).

    The recorded answers were given after five examples each, so levels are not comparable.
    """
    file = folder / "questions.parquet"
    rows = read_parquet(file, _COLUMNS, MMLU_PRO_SOURCE, ()).to_pylist()
    kept = [row for row in rows if split in (None, row["split"])]
    if not kept:
        known = ", ".join(sorted({str(row["split"]) for row in rows}))
        raise DatasetError(f"{file}: no split {split!r} (it has {known})")
    ids = [str(row["question_id"]) for row in kept]
    return ChoiceQuestions(
        queries=tuple(
            Query(_prompt(row["question"], row["options"]), id_, row["category"])
            for id_, row in zip(ids, kept, strict=True)
        ),
        answers={id_: row["answer"] for id_, row in zip(ids, kept, strict=True)},
        options={id_: tuple(row["options"]) for id_, row in zip(ids, kept, strict=True)},
        splits=tuple(row["split"] for row in kept),
    )


def _prompt(question: str, options: Sequence[str]) -> str:
    lettered = (f"{LETTERS[i]}. {option}" for i, option in enumerate(options))
    return "\n".join((question, *lettered, _INSTRUCTION))
