"""What a completion is worth: one scorer for each kind of answer.

Scorers read as much as can be read for sure and say how; what they cannot read has no answer, is
worth nothing and is counted by itself. Where the authors of a benchmark have a rule of their own,
what that gives stands beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from coe.aggregation import stated_answer
from coe.errors import ConfigError, nearest
from coe.eval.answers import read_letter
from coe.eval.benchmarks.checking import Sandbox, checked
from coe.eval.benchmarks.numbers import accepted_numbers, is_same_number, read_number
from coe.eval.benchmarks.question import Question, Score
from coe.eval.benchmarks.rules import Rule, boxed_rule
from coe.eval.datasets import Grade

_NOT_READ = "none"
_SPACES = re.compile(r"\s+")
_WORD = "stated"


def scorer_named(name: str, rule: Rule | None = None, sandbox: Sandbox | None = None) -> Score:
    """The scorer of that name. Raises `ConfigError` with the nearest known one.

    `rule`: the authors' own reader; `sandbox`: in what "python" checks answers.
    """
    scorers: Mapping[str, Score] = {
        "choice": partial(_choice, rule),
        "numeric": partial(_numeric, rule),
        "exact": _exact,
        "contains": _contains,
        "python": partial(_python, sandbox or Sandbox()),
        "judge": _unjudged,
    }
    if name not in scorers:
        guess = nearest(name, scorers)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"unknown scorer {name!r} (known: {', '.join(scorers)}){hint}")
    return scorers[name]


def _choice(rule: Rule | None, question: Question, completion: str) -> Grade:
    read = read_letter(completion, question.options)
    return Grade(
        float(read.letter == question.gold),
        read.letter,
        read.level,
        _by_rule(rule, question, completion, lambda said: said == question.gold),
    )


def _numeric(rule: Rule | None, question: Question, completion: str) -> Grade:
    accepted = accepted_numbers(question.gold) or ()

    def is_right(said: str | None) -> bool:
        number = None if said is None else read_number(said)
        return number is not None and any(is_same_number(number, gold) for gold in accepted)

    said = boxed_rule(completion, 0) or stated_answer(completion)
    number = None if said is None else read_number(said)
    by_rule = _by_rule(rule, question, completion, is_right)
    if number is None:
        return Grade(0.0, None, _NOT_READ, by_rule)
    return Grade(float(is_right(said)), f"{number:.12g}", _WORD, by_rule)


def _exact(question: Question, completion: str) -> Grade:
    """Right if the whole completion, or the answer that it states, is the text that counts."""
    whole, gold = _plain(completion), _plain(question.gold)
    stated = stated_answer(completion)
    if whole == gold:
        return Grade(1.0, gold, "whole")
    if stated is None:
        return Grade(0.0, None, _NOT_READ)
    return Grade(float(_plain(stated) == gold), _plain(stated), _WORD)


def _contains(question: Question, completion: str) -> Grade:
    """Right if the text that counts occurs, as whole words and in any case."""
    said = _plain(completion)
    found = re.search(rf"(?<!\w){re.escape(_plain(question.gold))}(?!\w)", said) is not None
    return Grade(float(found), said or None, "whole" if said else _NOT_READ)


def _python(sandbox: Sandbox, question: Question, completion: str) -> Grade:
    verdict = checked(question.gold, completion, sandbox)
    return Grade(float(verdict.is_right), completion.strip() or None, verdict.level)


def _unjudged(question: Question, completion: str) -> Grade:
    """A judge's to say."""
    return Grade(np.nan, completion.strip() or None)


def _by_rule(
    rule: Rule | None, question: Question, completion: str, is_right: Callable[[str], bool]
) -> float | None:
    if rule is None:
        return None
    said = rule(completion, len(question.options))
    return float(said is not None and is_right(said))


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" .`*\"'").casefold()
