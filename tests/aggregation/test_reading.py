"""What `stated_answer` reads from texts as experts write them, and what it leaves alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coe.aggregation import stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 0. The answer is (G).", "g"),
        ("Final Answer: The answer is **C. $0.99**.", "c"),
        ("The answer is (A).\n\nAnswer: The answer is (H).", "h"),
        (r"$x = \boxed{3.75}$. The answer is B", "b"),
        (r"The answer is C. Thus $\boxed{\text{(D) } 4}$", "d"),
        ("**Answer**: option B", "b"),
        ("The correct answer is:\n\n**B) Paris**", "b"),
        ("Work.\n\n### Answer:\nParis", "paris"),
        ("The answer would be about 9.", "about 9"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\mathrm{NaCl}}", "nacl"),
    ],
)
def test_last_statement_of_any_form_is_read(text: str, answer: str) -> None:
    assert stated_answer(f"Let us see.\n{text}") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (B).\nThe answer is ...", "b"),
        ("The answer is (I).\nThe answer is (", "i"),
        ("The answer is 5.\nThe answer is", "5"),
        (r"The answer is 5. So \boxed{", "5"),
        ("The answer is (A).\nThe answer is not (B) because 24 + 4 = 28.", "a"),
        ("It is 9.\nThe answer is not among the options.", None),
        ("It is 9.\nThe answer is (not listed).", None),
        ("It is 9.\nThe answer is not listed, but the closest is (C) 12.", "c"),
        ("He did.\nThe answer is not guilty.", "not guilty"),
    ],
)
def test_statement_that_says_nothing_is_passed_over(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\nThe answer is about 9.7, which is option (G).", "g"),
        ("\nThe answer is (B), because f(A) is 3.", "b"),
        ("\nThe answer is (A) or (B).", "a"),
        ("Work.\nThe closest option is (D).", "d"),
        ("Work.\nTherefore, (D) is the correct one.", "d"),
        ("Work.\nIt matches choice E!", "e"),
        ("Work.\nSo neither is option (D).", None),
        ("Work.\n(B) isn't what was asked.", None),
        ("Work.\nBoth (A) and (B) are.", None),
        ("Work.\nThe closest option is (D), and", None),
        ("Work.\nThat is the option I would take.", None),
        ("Option (D) at first.\nThen more work.", None),
    ],
)
def test_only_letter_of_a_sentence_is_read(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>The answer is 4, or 5.</think>\nParis", "paris"),
        ("<think>The answer is 4.</think>Now.\nThe answer is 5.", "5"),
        ("So the answer is (A).<|im_end|>The answer is (B).", "a"),
        ("So the answer is (A).<EOS_TOKEN>\n\n", "a"),
        (
            "It is. The answer is (C).\n\nQuestion:\nWhy?\nAnswer: Let us see. The answer is (D).",
            "c",
        ),
        ("Question: Why?\nAnswer: Because. The answer is (D).", "d"),
        ("Hm.\nQuestion 2: Why?\nThe answer is (D).", "d"),
    ],
)
def test_what_is_not_the_answer_is_not_read(text: str, answer: str) -> None:
    assert stated_answer(text) == answer


@given(st.text(alphabet="aB(). \n\\boxed{answer is:}*$", max_size=80))
def test_any_text_is_read_or_left(text: str) -> None:
    answer = stated_answer(text)
    assert answer is None or answer.strip() != ""


@pytest.mark.parametrize("part", [r"\boxed{", "The answer is ", "answer: (", "the option ", "\n"])
def test_no_text_takes_long(part: str) -> None:
    """A million characters of marks, each followed to the end of the text, would take hours."""
    started = time.perf_counter()
    stated_answer(part * (1_000_000 // len(part)))
    assert time.perf_counter() - started < 5.0
