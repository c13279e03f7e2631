from __future__ import annotations

from pathlib import Path

import pytest

from coe.eval.answers import Extraction, Level, read_letter

_OPTIONS = ("Lima", "Quito", "the old city of Cusco", "old city")


@pytest.mark.parametrize(
    ("completion", "letter", "level"),
    [
        ("It is in Peru. The answer is (A).", "A", "l1"),
        ("The answer is B", "B", "l1"),
        ("The answer is (A). Question: ... The answer is (B).", "A", "l1"),
        ("The answer is (A, C).", "A", "l1"),
        ("Final Answer: C. old", "C", "l2"),
        ("The answer is **D. old city**.", "D", "l2"),
        ("Answer: A\n\nNo, wait. Answer: B", "B", "l2"),
        (r"So $\boxed{C}$ it is", "C", "l2"),
        ("The answer is (B", "B", "l2"),
        ("The answer is Quito.", "B", "option_text"),
        ("Its first capital was the old city of Cusco.", "C", "option_text"),
        ("Lima is hot. The closest option is (D).", "D", "l3"),
        ("So it has to be option A, clearly.", "A", "l3"),
        ("The answer is (J).", None, "out_of_range"),
        ("So it has to be option J.", None, "out_of_range"),
        ("The answer is CaO", None, "none"),
        ("I cannot answer this.", None, "none"),
        ("It is (A) or (B).", None, "none"),
        ("Lima and Quito are both capitals.", None, "none"),
        ("We compare this with option A and", None, "none"),
        ("", None, "none"),
    ],
)
def test_letter_is_read_at_its_level(completion: str, letter: str | None, level: Level) -> None:
    assert read_letter(completion, _OPTIONS) == Extraction(letter, level)


def test_option_that_occurs_only_within_a_longer_one_is_not_named() -> None:
    assert read_letter("It was the old city.", _OPTIONS).letter == "D"
    assert read_letter("It was the old city of Cusco.", _OPTIONS).letter == "C"


def test_letters_agree_with_those_of_recorded_transcripts(recorded_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = recorded_data / "mmlu_pro"
    questions = parquet.read_table(folder / "questions.parquet").to_pylist()
    options = {row["question_id"]: row["options"] for row in questions}
    rows = parquet.read_table(folder / "transcripts.parquet").to_pylist()
    agreed = sum(
        read_letter(row["output"], options[row["question_id"]]).letter == row["pred"]
        for row in rows
    )
    assert agreed / len(rows) >= 0.995
