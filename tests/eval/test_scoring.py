r"""What completions are worth, each scorer on answers that people would read without doubt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.errors import ConfigError
from coe.eval.benchmarks.numbers import accepted_numbers, is_same_number, read_number
from coe.eval.benchmarks.question import Question
from coe.eval.benchmarks.rules import boxed_rule, mmlu_pro_rule, symbolic_rule
from coe.eval.benchmarks.scoring import scorer_named
from coe.types import Query


def _question(gold: str, options: tuple[str, ...] = ()) -> Question:
    return Question(Query("what?", "q"), gold, options=options)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("33", 33),
        ("1,024", 1024),
        ("1{,}024", 1024),
        ("-3.5", -3.5),
        ("−7", -7),
        (".5", 0.5),
        ("m + n = 33", 33),
        ("204 minutes", 204),
        (r"204\text{ minutes}", 204),
        ("$1,000,000", 1_000_000),
        ("25 %", 25),
        (r"\frac{3}{4}", 0.75),
        (r"-\dfrac{1}{2}", -0.5),
        ("3/4", 0.75),
        ("1.2e-4", 1.2e-4),
        (r"6.02 \times 10^{23}", 6.02e23),
        ("6 * 10^-3", 6e-3),
        ("033", 33),
    ],
)
def test_read_number_reads_what_people_write(said: str, number: float) -> None:
    read = read_number(said)
    assert read is not None
    assert is_same_number(read, number)


@pytest.mark.parametrize("said", ["", "none", "3 or 4", "3/4 and 2", r"\frac{a}{2}", "1/0", "2^10"])
def test_read_number_does_not_guess(said: str) -> None:
    assert read_number(said) is None


@given(st.integers(-(10**12), 10**12))
def test_read_number_reads_every_integer_with_or_without_commas(number: int) -> None:
    assert read_number(str(number)) == number
    assert read_number(f"{number:,}") == number


@given(st.text(max_size=60))
def test_read_number_never_fails(said: str) -> None:
    read = read_number(said)
    assert read is None or isinstance(read, float)


def test_accepted_numbers_may_be_several() -> None:
    assert accepted_numbers("080 or 081 (both were accepted)") == (80, 81)
    assert accepted_numbers("80 or so") is None


def test_same_number_is_within_a_relative_tolerance_but_of_zero_an_absolute_one() -> None:
    assert is_same_number(1_000_000.5, 1_000_000)
    assert not is_same_number(1.00001, 1.0)
    assert is_same_number(1e-7, 0.0)
    assert not is_same_number(1e-3, 0.0)


@pytest.mark.parametrize(
    ("completion", "score", "answer"),
    [
        (r"so $m+n = \boxed{033}$.", 1.0, "33"),
        (r"\boxed{\frac{66}{2}}", 1.0, "33"),
        ("The answer is 33.", 1.0, "33"),
        ("The answer is 34.", 0.0, "34"),
        ("33", 1.0, "33"),
        ("I would have to think about this for much longer than I am allowed to here", 0.0, None),
    ],
)
def test_numeric_scorer_compares_values(completion: str, score: float, answer: str | None) -> None:
    grade = scorer_named("numeric", boxed_rule)(_question("33"), completion)
    assert (grade.score, grade.answer) == (score, answer)


def test_numeric_scorer_tells_what_the_authors_rule_gives() -> None:
    scorer = scorer_named("numeric", boxed_rule)
    assert scorer(_question("33"), "The answer is 33.").by_rule == 0.0
    assert scorer(_question("33"), r"\boxed{33}").by_rule == 1.0
    assert scorer_named("numeric")(_question("33"), "33").by_rule is None


def test_choice_scorer_keeps_unreadable_apart_from_wrong() -> None:
    scorer = scorer_named("choice", mmlu_pro_rule)
    question = _question("B", ("one", "two", "three"))
    right = scorer(question, "The answer is (B).")
    wrong = scorer(question, "The answer is (A).")
    beyond = scorer(question, "The answer is (J).")
    unread = scorer(question, "well, B or not B")
    assert [g.score for g in (right, wrong, beyond, unread)] == [1.0, 0.0, 0.0, 0.0]
    assert [g.answer for g in (right, wrong, beyond, unread)] == ["B", "A", None, None]
    assert [g.level for g in (right, wrong, beyond, unread)] == ["l1", "l1", "out_of_range", "none"]
    assert [g.by_rule for g in (right, wrong, beyond, unread)] == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "read"),
    [
        ("the answer is (C) and (D)", "C"),
        ("Answer: D", "D"),
        ("I choose E", "E"),
        ("nothing at all", None),
    ],
)
def test_mmlu_pro_rule_reads_as_the_authors_do(completion: str, read: str | None) -> None:
    assert mmlu_pro_rule(completion, 10) == read


def test_symbolic_rule_takes_the_last_letter_before_a_bracket_else_the_last_letter() -> None:
    assert symbolic_rule("(A) is wrong, so B) it is. Done.", 4) == "B"
    assert symbolic_rule("Done: C", 4) == "C"
    assert symbolic_rule("E) is none", 4) is None


def test_boxed_rule_takes_the_last_box_with_its_inner_braces() -> None:
    assert boxed_rule(r"\boxed{1} then \boxed{\frac{1}{2}}.", 0) == r"\frac{1}{2}"
    assert boxed_rule(r"\boxed{1", 0) is None


@pytest.mark.parametrize(
    ("completion", "score"),
    [("Lima", 1.0), (" lima. ", 1.0), ("The answer is Lima.", 1.0), ("The answer is Rome.", 0.0)],
)
def test_exact_scorer_takes_the_whole_or_what_is_stated(completion: str, score: float) -> None:
    assert scorer_named("exact")(_question("Lima"), completion).score == score


def test_contains_scorer_wants_whole_words() -> None:
    scorer = scorer_named("contains")
    assert scorer(_question("art"), "It is ART, they say").score == 1.0
    assert scorer(_question("art"), "a party").score == 0.0
    assert scorer(_question("art"), " ").answer is None


def test_judge_scorer_leaves_the_score_open() -> None:
    assert math.isnan(scorer_named("judge")(_question(""), "a poem").score)


def test_unknown_scorer_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'numeric'"):
        scorer_named("numerical")
