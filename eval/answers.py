r"""Reads the chosen option out of a multiple-choice completion.

Readers are tried from the surest to the least sure, and the level that succeeded is kept:

1. `l1`: "answer is (X)", at its first place, where the letter stands alone, so that
   "the answer is CaO" is not C. Of several letters, as in "(A, C)", the first counts: so does
   the benchmark's own reader.
2. `l2`: "answer: X", `\boxed{X}`, "answer is **X. …**" and the like, at the last place.
3. `option_text`: the words of exactly one option stand where an answer would.
4. `l3`: one single option letter, marked as one, in the last sentence of a finished answer.

A letter beyond the options ends the reading as `out_of_range`; nothing is ever guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["l1", "l2", "option_text", "l3", "out_of_range", "none"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_L1 = re.compile(r"answer is (?:\(([A-Z])(?:\)|,)|([A-Z])(?![\w'’(+=^*/-]|\s*[+=<>^]|\s+[a-z]))")
_ANSWER_IS = re.compile(r"answer is \(?[A-Z]")
_L2 = re.compile(
    r"(?:answer|Answer|ANSWER)(?: is:?|:)(?: option)?[\s*`]*"
    r"(?:\(([A-Z])(?=\)|$)|([A-Z])(?![\w'’])(?!\s*[=+^<>]))"
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{|\\mathrm\{|\\textbf\{)?\(?([A-Z])\)?\s*\}")
_STATEMENT = re.compile(r"answer is:?\s*\(?(.+?)\)?[.\s]*(?:\n|$)")
_MARKED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Aa]nswer|[Cc]hoice)s?:? \(?([A-Z])\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_SPACES = re.compile(r"\s+")
_FINISHED = (".", "!", "?", ")", '"', "”", "*", "$", "}")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The option read from a completion, and how sure the reading is."""

    letter: str | None
    """None where nothing was read or the letter is beyond the options."""
    level: Level


def read_letter(completion: str, options: Sequence[str]) -> Extraction:
    """The option a completion chose, out of `options`, lettered from A in order."""
    stated = _first_level(completion) or _second_level(completion)
    if stated is not None:
        letter, level = stated
        if LETTERS.index(letter) >= len(options):
            return Extraction(None, "out_of_range")
        return Extraction(letter, level)
    by_text = _option_text(completion, options)
    if by_text is not None:
        return Extraction(by_text, "option_text")
    return _third_level(completion, len(options))


def _first_level(completion: str) -> tuple[str, Level] | None:
    first = _ANSWER_IS.search(completion)
    if first is None:
        return None
    match = _L1.match(completion, first.start())
    return None if match is None else (match[1] or match[2], "l1")


def _second_level(completion: str) -> tuple[str, Level] | None:
    matches = [*_L2.finditer(completion), *_BOXED.finditer(completion)]
    if not matches:
        return None
    last = max(matches, key=lambda match: match.start())
    return last[last.lastindex or 1], "l2"


def _option_text(completion: str, options: Sequence[str]) -> str | None:
    statement = _STATEMENT.search(completion)
    if statement is not None:
        exact = _exactly_one(statement[1], options)
        if exact is not None:
            return exact
    if not _is_finished(completion):
        return None
    return _mentioned(_last_sentence(completion), options)


def _exactly_one(statement: str, options: Sequence[str]) -> str | None:
    said = _plain(statement)
    hits = [i for i, option in enumerate(options) if _plain(option) == said]
    return LETTERS[hits[0]] if len(hits) == 1 else None


def _mentioned(sentence: str, options: Sequence[str]) -> str | None:
    """The one option whose words occur; an option within a longer one that occurs is not one."""
    said = _plain(sentence)
    found = {i: _plain(option) for i, option in enumerate(options)}
    found = {i: text for i, text in found.items() if _occurs(text, said)}
    longest = [
        i
        for i, text in found.items()
        if not any(j != i and text in other and text != other for j, other in found.items())
    ]
    return LETTERS[longest[0]] if len(longest) == 1 else None


def _occurs(text: str, said: str) -> bool:
    enough = sum(character.isalpha() for character in text) >= 4
    return enough and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said) is not None


def _third_level(completion: str, n_options: int) -> Extraction:
    if not _is_finished(completion):
        return Extraction(None, "none")
    named = {a or b for a, b in _MARKED.findall(_last_sentence(completion))}
    if len(named) != 1:
        return Extraction(None, "none")
    letter = named.pop()
    if LETTERS.index(letter) >= n_options:
        return Extraction(None, "out_of_range")
    return Extraction(letter, "l3")


def _is_finished(completion: str) -> bool:
    return completion.rstrip().endswith(_FINISHED)


def _last_sentence(completion: str) -> str:
    sentences = [part for part in _SENTENCE_END.split(completion.strip()) if part.strip()]
    return sentences[-1] if sentences else ""


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" .*$\"'“”").casefold()
