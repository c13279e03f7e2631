from __future__ import annotations

from pathlib import Path

import pytest

from coe.errors import DatasetError
from coe.eval.choices import load_mmlu_pro_questions
from coe.eval.datasets import Grade

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    columns = {
        "question_id": [70, 71],
        "category": ["law", "math"],
        "question": ["Who may sue?", "One and one?"],
        "options": [["You", "Me"], ["1", "2", "3"]],
        "answer": ["A", "B"],
        "split": ["train", "test"],
    }
    parquet.write_table(pa.table(columns), tmp_path / "questions.parquet")
    return tmp_path


def test_prompt_holds_question_and_lettered_options(folder: Path) -> None:
    query = load_mmlu_pro_questions(folder, "test").queries[0]
    assert (query.id, query.category) == ("71", "math")
    assert query.text.startswith("One and one?\nA. 1\nB. 2\nC. 3\n")


def test_completion_is_judged_by_its_letter(folder: Path) -> None:
    questions = load_mmlu_pro_questions(folder)
    law, math = questions.queries
    assert questions.splits == ("train", "test")
    assert questions.grade(law, "So the answer is (A).") == Grade(1.0, "A")
    assert questions.grade(math, "So the answer is (A).") == Grade(0.0, "A")
    assert questions.grade(law, "So the answer is (C).") == Grade(0.0, None)
    assert questions.grade(math, "I do not know.") == Grade(0.0, None)


def test_unknown_split_names_those_there_are(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"no split 'dev' \(it has test, train\)"):
        load_mmlu_pro_questions(folder, "dev")
