r"""Reads the final answer out of a completion that says which it is.

For votes over live completions whose options nobody knows; a benchmark that knows them reads
more (`coe.eval.answers`). Read is the last of all `\boxed{…}`, "answer is …" and "answer: …" that
says something, each up to the end of its sentence; else the one option letter that the last
sentence names; else a completion that is nothing but a short line.

Not read are a reasoning model's thoughts, what follows a token that ends texts and, where an answer
was stated before it, a further question that a model without chat training put to itself.
"""

from __future__ import annotations

import re

_END = re.compile(r"<\|\w+\|>|</s>|<eos(?:_token)?>", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n[ \t#*]*(?:Question|Q|User|Human)[ \t]*\d*\**:")
_MARK = re.compile(
    r"\\boxed\{|\banswer(?:\**:|[ \t]+(?:is|would[ \t]+be)\b[ \t]*:?)", re.IGNORECASE
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_SENTENCE_END = re.compile(r"[.!?](?=[\s*`\"'”]|$)")
_SHELL = " \t\n*`$\"'“”.!?:,"
_LETTER = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?\(?([A-Z])\)?(?:[.:,)]\s.*)?")
_NAMED = re.compile(r"(?<!\w)\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)[ \t]+\(?(?!I\s+[a-z])([A-Z])\b")
_DENIED = re.compile(r"not\s+(?:\(?[A-Z]\b\)?|(?:listed|given|provided|available|among|on|in)\b)")
_NEGATION = re.compile(r"\b(?:not?|none|neither|cannot)\b|n['’]t\b", re.IGNORECASE)
_FINISHED = (".", "!", "?", ")", '"', "”", "*", "$", "}")
_LONGEST = 1000
"""Characters looked at after a mark and for the last sentence, so that no text takes long."""
_MOST_MARKS = 100
"""Marks looked at, from the last one, for the same reason."""
_SHORT = 80


def stated_answer(text: str) -> str | None:
    """The answer without case, outer marks and brackets; None if the text states none.

    A lone option letter, as in "(B)", "B. Paris" or "option B", is read as that letter, and so is
    the only letter that a statement names, as in "about 9, which is option (B)".
    """
    own = _END.split(text.rpartition("</think>")[2].strip(), maxsplit=1)[0]
    first = _NEXT_QUESTION.split(own, maxsplit=1)[0]
    stated = _last_statement(first) or _last_statement(own)
    if stated is not None:
        return stated
    line = first.strip()
    if "\n" not in line and len(line) <= _SHORT:
        return _plain(line)
    return _concluded(line)


def _last_statement(text: str) -> str | None:
    """What the last mark states; those that state nothing are passed over."""
    for mark in reversed([*_MARK.finditer(text)][-_MOST_MARKS:]):
        rest = text[mark.end() : mark.end() + _LONGEST]
        said = _in_braces(rest) if mark[0].endswith("{") else rest.lstrip(" \t\n*:")
        answer = _plain(said.split("\n", maxsplit=1)[0])
        if answer is not None:
            return answer
    return None


def _in_braces(rest: str) -> str:
    """What stands before the end of a brace that opened before `rest`."""
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place]
    return ""


def _plain(answer: str) -> str | None:
    bare = _WRAPPED.sub(r"\1", answer).strip(_SHELL)
    letter = _LETTER.fullmatch(bare)
    if letter is not None:
        return letter[1].casefold()
    sentence = _SENTENCE_END.split(bare, maxsplit=1)[0].strip(_SHELL)
    if sentence.startswith("(") and sentence.endswith(")"):
        sentence = sentence[1:-1]
    denied = _DENIED.match(sentence)
    named = _only_letter(sentence[denied.end() :] if denied else sentence)
    if named is not None or denied:
        return named
    return None if sentence in ("", "(", ")") else sentence.casefold()


def _concluded(text: str) -> str | None:
    """The option letter that the last sentence names without a negation; None if it was cut."""
    if not text.endswith(_FINISHED):
        return None
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", text[-_LONGEST:]) if s.strip()]
    last = sentences[-1]
    return None if _NEGATION.search(last) else _only_letter(last)


def _only_letter(sentence: str) -> str | None:
    letters = {bracketed or bare for bracketed, bare in _NAMED.findall(sentence)}
    return letters.pop().casefold() if len(letters) == 1 else None
