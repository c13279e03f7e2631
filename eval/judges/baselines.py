"""Answers of a baseline out of a file of JSON lines, as the benchmarks' authors keep them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coe.errors import DatasetError
from coe.eval.benchmarks.question import Benchmark
from coe.eval.benchmarks.reading import read_rows

_IDS = ("id", "question_id", "uid")
_FIX = (
    "each line is an object with 'id' and 'answer'; the model_answer files of FastChat and of "
    "Arena-Hard can be read as they are"
)


def load_baseline(file: Path, benchmark: Benchmark) -> Mapping[str, str]:
    """Query id → answer. Raises `DatasetError` naming the first question that has none."""
    answers: dict[str, str] = {}
    for row in read_rows(file, (), "test", _FIX):
        id_ = row.first(_IDS)
        answer = _answer(row.fields)
        if id_ is None or answer is None:
            raise row.complaint(f"holds no id, or no answer; {_FIX}")
        if str(id_) in answers:
            raise row.complaint(f"answers {id_!r} again; keep one answer")
        answers[str(id_)] = answer
    for query in benchmark.queries:
        if query.id not in answers:
            raise DatasetError(f"{file}: holds no answer to question {query.id!r}; {_FIX}")
    return answers


def _answer(fields: Mapping[str, Any]) -> str | None:
    """`answer` or `text`; FastChat's first turn; the last message of Arena-Hard's."""
    for name in ("answer", "text"):
        if isinstance(fields.get(name), str):
            return str(fields[name])
    try:
        if "choices" in fields:
            turn = fields["choices"][0]["turns"][0]
            return str(turn["content"] if isinstance(turn, dict) else turn)
        content = fields["messages"][-1]["content"]
        return str(content["answer"] if isinstance(content, dict) else content)
    except (KeyError, IndexError, TypeError):
        return None
