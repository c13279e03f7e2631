"""Rows as questions: what the columns of known files mean.

Whatever a question lacks is an error that names the file and the row, so that a benchmark is asked
whole or not at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from coe.eval.answers import LETTERS
from coe.eval.benchmarks.numbers import accepted_numbers
from coe.eval.benchmarks.question import Question, ScorerName, Shot
from coe.eval.benchmarks.reading import Row
from coe.types import Query

_IDS = ("id", "question_id", "uid", "Record ID", "unique_id")
_TEXTS = ("question", "Question", "problem", "Problem", "prompt")
_GOLDS = ("gold_answer", "answer", "gold", "Answer", "cop", "answer_index")
_CATEGORIES = ("category", "subject_name", "High-level domain", "subject", "subtopic", "cluster")
_LISTS = ("options", "choices")
_FOUR = ("opa", "opb", "opc", "opd")
_RIGHT, _WRONG = "Correct Answer", "Incorrect Answer {}"
_SOLUTIONS = ("cot_content", "rationale", "solution", "exp")
_INLINE = "The options are:"
_LEAD = re.compile(r"^\s*A:\s*")


def questions_of(
    rows: Sequence[Row], split: str, scorer: ScorerName, seed: int = 0
) -> tuple[Question, ...]:
    """`seed` shuffles options that a file has with the right one first.

    Raises `DatasetError` for the first row that is no whole question, or whose id occurs twice.
    """
    questions = tuple(_question(row, split, scorer, seed) for row in rows)
    seen: dict[str, Row] = {}
    for row, question in zip(rows, questions, strict=True):
        before = seen.setdefault(question.query.id, row)
        if before is not row:
            raise row.complaint(
                f"has the id {question.query.id!r}, as row {before.number} of {before.file.name}; "
                "give each question an id of its own"
            )
    return questions


def shots_of(rows: Iterable[Row], scorer: ScorerName, seed: int = 0) -> tuple[Shot, ...]:
    """Worked examples: of rows that hold a solution as well."""
    shots = []
    for row in rows:
        solution = row.first(_SOLUTIONS)
        if isinstance(solution, str) and solution.strip():
            question = _question(row, "validation", scorer, seed)
            text = _LEAD.sub("", solution).strip()
            shots.append(Shot(question.query.text, text, question.query.category))
    return tuple(shots)


def lettered(text: str, options: Sequence[str]) -> str:
    """The question with its options below, one a line."""
    lines = (f"({LETTERS[i]}) {option}" for i, option in enumerate(options))
    return "\n".join((text, *lines))


def inline_options(text: str) -> tuple[str, ...]:
    """Those that a question ends with, as in "The options are: (A) one (B) two"; else none."""
    _, mark, tail = text.rpartition(_INLINE)
    if not mark:
        return ()
    begins: list[tuple[int, int]] = []
    at = 0
    for letter in LETTERS:
        found = re.compile(rf"(?<!\S)\({letter}\)(?!\S)").search(tail, at)
        if found is None:
            break
        at = found.end()
        begins.append((found.start(), at))
    ends = [begin for begin, _ in begins[1:]] + [len(tail)]
    return tuple(tail[start:end].strip() for (_, start), end in zip(begins, ends, strict=True))


def _question(row: Row, split: str, scorer: ScorerName, seed: int) -> Question:
    turns = _turns(row)
    text = turns[0] if turns else row.first(_TEXTS)
    if not isinstance(text, str) or not text.strip():
        has = ", ".join(row.fields)
        raise row.complaint(f"has no question; put it in 'question' (the row has {has})")
    category = row.first(_CATEGORIES)
    options, gold = _options(row, text, scorer, seed)
    if options and _INLINE not in text:
        text = lettered(text, options)
    query = Query(text, _id(row, split), None if category is None else str(category))
    reference = row.first(("reference", "reference_answer"))
    if isinstance(reference, list):
        reference = "\n\n".join(map(str, reference))
    return Question(
        query,
        gold,
        split,
        options,
        tuple(turns[1:]),
        None if reference is None else str(reference),
    )


def _id(row: Row, split: str) -> str:
    """The row's own; a number in a file of one split is unique only there."""
    if "row" in row.fields:
        return f"{split}-{row.fields['row']}"
    own = row.first(_IDS)
    return f"{split}-{row.number - 1}" if own is None else str(own)


def _turns(row: Row) -> list[str]:
    """What is asked one after the other; empty where a row has but a question."""
    turns = row.fields.get("turns")
    if not isinstance(turns, list):
        return []
    said = [turn.get("content") if isinstance(turn, dict) else turn for turn in turns]
    if not said or not all(isinstance(turn, str) and turn.strip() for turn in said):
        raise row.complaint("'turns' is no list of texts")
    return [str(turn) for turn in said]


def _options(row: Row, text: str, scorer: ScorerName, seed: int) -> tuple[tuple[str, ...], str]:
    """The options, and the answer that counts."""
    if scorer == "choice":
        if _RIGHT in row.fields:
            return _shuffled(row, text, seed)
        options = _given_options(row, text)
        return options, _letter(row, row.first(_GOLDS), options)
    if scorer == "judge":
        return (), ""
    gold = row.first(("check", *_GOLDS) if scorer == "python" else _GOLDS)
    if gold is None:
        key = "check" if scorer == "python" else "answer"
        raise row.complaint(f"says no answer that counts; put it in {key!r}")
    if scorer == "numeric" and accepted_numbers(str(gold)) is None:
        raise row.complaint(f"the answer {gold!r} is no number; choose another scorer, or mend it")
    return (), str(gold)


def _given_options(row: Row, text: str) -> tuple[str, ...]:
    for name in _LISTS:
        value = row.fields.get(name)
        if isinstance(value, list) and value:
            return tuple(map(str, value))
    if _FOUR[0] in row.fields:
        return tuple(str(row.fields.get(name) or "") for name in _FOUR)
    options = inline_options(text)
    if len(options) < 2:
        raise row.complaint("has no options to choose from; put them in 'options', as a list")
    return options


def _letter(row: Row, gold: Any, options: Sequence[str]) -> str:
    """From a letter, the place of an option counted from 0, or an option's own text."""
    if gold is None:
        raise row.complaint("says no answer that counts; put its letter in 'answer'")
    if isinstance(gold, int) and 0 <= gold < len(options):
        return LETTERS[gold]
    said = str(gold).strip()
    letter = said.strip("()").upper()
    if len(letter) == 1 and letter in LETTERS[: len(options)]:
        return letter
    if list(options).count(said) == 1:
        return LETTERS[list(options).index(said)]
    raise row.complaint(
        f"the answer {gold!r} is none of its {len(options)} options; a split without published "
        "answers cannot be scored"
    )


def _shuffled(row: Row, text: str, seed: int) -> tuple[tuple[str, ...], str]:
    """GPQA's own files put the right answer first; the order is drawn anew for each question."""
    right = row.fields.get(_RIGHT)
    wrong = [row.fields.get(_WRONG.format(i)) for i in (1, 2, 3)]
    if right is None or None in wrong:
        raise row.complaint(f"has no {_RIGHT!r} and three {_WRONG.format('N')!r}")
    key = hashlib.sha256(f"{seed}\x1f{text}".encode()).digest()
    order = np.random.default_rng(list(key)).permutation(4)
    given = [right, *wrong]
    options = tuple(str(given[i]).strip() for i in order)
    return options, LETTERS[int(np.argmin(order))]
