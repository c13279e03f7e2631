r"""Reads the final answer out of a completion that says which it is.

For votes over live completions whose options nobody knows; a benchmark that knows them reads
more (`coe.eval.answers`). Read are, in this order, the last `\boxed{…}`, the last "answer is …" or
"answer: …" up to the end of its sentence, and a completion that is nothing but a short line.
"""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_STATED = re.compile(r"\banswer(?: is:?|:)[ \t*]*([^\n]+)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_SHELL = " \t*`$\"'“”.!?:,"
_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:,)]\s.*)?")
_SHORT = 80


def stated_answer(text: str) -> str | None:
    """The answer without case, outer marks and brackets; None if the text states none.

    A lone option letter, as in "(B)" or "B. Paris", is read as that letter.
    """
    boxed = _BOXED.findall(text)
    if boxed:
        return _plain(boxed[-1])
    stated = _STATED.findall(text)
    if stated:
        return _plain(stated[-1])
    line = text.strip()
    return _plain(line) if "\n" not in line and len(line) <= _SHORT else None


def _plain(answer: str) -> str | None:
    bare = answer.strip(_SHELL)
    letter = _LETTER.fullmatch(bare)
    if letter is not None:
        return letter[1].casefold()
    sentence = _SENTENCE_END.split(bare, maxsplit=1)[0].strip(_SHELL)
    if sentence.startswith("(") and sentence.endswith(")"):
        sentence = sentence[1:-1]
    return sentence.casefold() or None
