"""Files of questions: what is read, and what is told of those that cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coe.errors import ConfigError, DatasetError
from coe.eval.benchmarks.catalog import KINDS, Source, load_benchmark
from coe.eval.benchmarks.hub import hub_rows
from coe.eval.benchmarks.rows import inline_options
from coe.eval.benchmarks.zoo import zoo_benchmark
from coe.types import Query

CHOICE = {"id": "q1", "question": "Which?", "options": ["one", "two"], "answer": "B"}


def _file(folder: Path, rows: Sequence[Mapping[str, Any] | str], name: str = "test.jsonl") -> Path:
    file = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines), "utf-8")
    return file


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**CHOICE, "question": ""}, "row 2: has no question"),
        ({**CHOICE, "answer": None}, "row 2: says no answer that counts"),
        ({**CHOICE, "answer": "C"}, "row 2: the answer 'C' is none of its 2 options"),
        ({**CHOICE, "answer": -1}, "row 2: the answer -1 is none of its 2 options"),
        ({**CHOICE, "options": None}, "row 2: has no options"),
        ({**CHOICE, "id": "q0"}, "row 2: has the id 'q0', as row 1"),
        ("[1, 2]", "line 2: is no JSON object"),
        ('{"id": "q1", ', "line 2: is not JSON"),
    ],
)
def test_malformed_row_is_told_with_file_and_row(
    tmp_path: Path, row: Mapping[str, Any] | str, words: str
) -> None:
    file = _file(tmp_path, [{**CHOICE, "id": "q0"}, row])
    with pytest.raises(DatasetError, match=words) as caught:
        load_benchmark("gpqa", Source(file))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("answer", ["B", "(b)", "two", 1])
def test_answer_may_be_letter_place_or_text(tmp_path: Path, answer: str | int) -> None:
    file = _file(tmp_path, [{**CHOICE, "answer": answer}])
    (question,) = load_benchmark("gpqa", Source(file)).questions
    assert (question.gold, question.options) == ("B", ("one", "two"))
    assert question.query.text == "Which?\n(A) one\n(B) two"


def test_unknown_split_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    _file(tmp_path, [CHOICE], "gpqa_test.jsonl")
    _file(tmp_path, [CHOICE], "gpqa_train.jsonl")
    with pytest.raises(DatasetError, match=r"no split 'dev' \(it has test, train\)"):
        load_benchmark("gpqa", Source(tmp_path, splits=("dev",)))
    file = _file(tmp_path, [{**CHOICE, "split": "test"}], "mine.jsonl")
    with pytest.raises(DatasetError, match=r"no split 'dev' \(it has test\)"):
        load_benchmark("gpqa", Source(file, splits=("dev",)))


def test_splits_asked_together_may_not_share_an_id(tmp_path: Path) -> None:
    for split in ("test", "train"):
        _file(tmp_path, [CHOICE], f"gpqa_{split}.jsonl")
    with pytest.raises(DatasetError, match="'q1' is in the splits 'test' and 'train'"):
        load_benchmark("gpqa", Source(tmp_path, splits=("test", "train")))


def test_questions_that_are_nowhere_are_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--hub Idavidrein/gpqa fetches it"):
        load_benchmark("gpqa", Source())
    with pytest.raises(DatasetError, match="no such file or folder; --data takes"):
        load_benchmark("gpqa", Source(tmp_path / "absent"))
    with pytest.raises(DatasetError, match=r"holds no gpqa_test\.parquet"):
        load_benchmark("gpqa", Source(tmp_path))
    with pytest.raises(ConfigError, match="did you mean 'gpqa'"):
        load_benchmark("gpaq", Source(tmp_path))


def test_hub_without_its_library_or_a_network_is_told_with_the_remedy() -> None:
    with pytest.raises(DatasetError, match=r"Idavidrein/gpqa: .*(needs datasets|cannot be)"):
        hub_rows("Idavidrein/gpqa", None, "test", "name --data")


def test_rows_of_every_known_layout_are_read(tmp_path: Path) -> None:
    rows: Mapping[str, Mapping[str, Any]] = {
        "medmcqa": {"id": "m", "question": "Q", "opa": 1, "opb": 2, "opc": 3, "opd": 4, "cop": 2},
        "mmlu-pro": {"question_id": 7, "question": "Q", "options": ["x", "y"], "answer_index": 1},
        "aime": {"ID": "2024-I-1", "Problem": "Q", "Answer": 33},
        "gpqa": {"row": 3, "question": "Q The options are: (A) x (B) y.", "gold_answer": "A"},
    }
    golds = {"medmcqa": "C", "mmlu-pro": "B", "aime": "33", "gpqa": "A"}
    ids = {"medmcqa": "m", "mmlu-pro": "7", "aime": "test-0", "gpqa": "test-3"}
    for name, row in rows.items():
        file = _file(tmp_path, [row], f"{name}.jsonl")
        (question,) = load_benchmark(name, Source(file)).questions
        assert (question.gold, question.query.id) == (golds[name], ids[name])


def test_gpqa_options_are_shuffled_by_seed_and_stay_so(tmp_path: Path) -> None:
    row = {"Question": "Q", "Correct Answer": "right"}
    row |= {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    file = _file(tmp_path, [{**row, "Question": f"Q{i}"} for i in range(40)])
    first = load_benchmark("gpqa", Source(file)).questions
    assert {question.gold for question in first} == set("ABCD")
    for question in first:
        assert question.options["ABCD".index(question.gold)] == "right"
    assert first == load_benchmark("gpqa", Source(file)).questions
    assert first != load_benchmark("gpqa", Source(file, seed=1)).questions


def test_inline_options_end_where_the_next_letter_begins() -> None:
    text = "Name it. The options are: (A) (E)-one (B) two (2) (C) like (A) too"
    assert inline_options(text) == ("(E)-one", "two (2)", "like (A) too")
    assert inline_options("Name (A) it") == ()


def test_examples_come_from_the_data_by_category_or_else_from_us(tmp_path: Path) -> None:
    _file(tmp_path, [{**CHOICE, "category": "law"}, {**CHOICE, "id": "q2", "category": "art"}])
    ours = load_benchmark("mmlu-pro", Source(tmp_path))
    assert ours.shots == KINDS["mmlu-pro"].shots
    assert ours.prompt(ours.queries[0])[0].content.count("Question:") == 3
    solved = {**CHOICE, "cot_content": "A: It is so. The answer is (B)."}
    shots = [{**solved, "id": f"v{i}", "category": "law"} for i in range(7)]
    _file(tmp_path, shots, "validation.jsonl")
    theirs = load_benchmark("mmlu-pro", Source(tmp_path))
    law, art = (theirs.prompt(query)[0].content for query in theirs.queries)
    assert law.count("It is so.") == 5
    assert "A: It" not in law
    assert "about law" in law
    assert art.count("Question:") == 0
    none = load_benchmark("mmlu-pro", Source(tmp_path, n_shots=0))
    assert "It is so" not in none.prompt(none.queries[0])[0].content


def test_turns_are_read_as_texts_or_messages(tmp_path: Path) -> None:
    rows = [
        {"question_id": 81, "turns": ["write", "shorten"], "reference": ["r1", "r2"]},
        {"question_id": 82, "turns": [{"content": "explain"}]},
    ]
    first, second = load_benchmark("mt-bench", Source(_file(tmp_path, rows))).questions
    assert (first.query.text, first.turns, first.reference) == ("write", ("shorten",), "r1\n\nr2")
    assert (second.query.text, second.turns) == ("explain", ())
    with pytest.raises(DatasetError, match="row 1: 'turns' is no list of texts"):
        load_benchmark("mt-bench", Source(_file(tmp_path, [{"turns": [1]}])))


def test_numeric_gold_must_be_a_number(tmp_path: Path) -> None:
    file = _file(tmp_path, [{"problem": "Q", "answer": "80 or 81 (both were accepted)"}])
    (question,) = load_benchmark("aime", Source(file)).questions
    assert question.gold.startswith("80 or 81")
    bad = _file(tmp_path, [{"problem": "Q", "answer": "many"}])
    with pytest.raises(DatasetError, match="'many' is no number"):
        load_benchmark("aime", Source(bad))


def test_zoo_is_a_benchmark_graded_as_the_zoo_grades() -> None:
    benchmark = zoo_benchmark("test")
    question = benchmark.questions[0]
    assert benchmark.prompt(question.query)[0].content == question.query.text
    assert benchmark.grade(question.query, question.gold).score == 1.0
    assert benchmark.grade(question.query, "no idea").score == 0.0


@pytest.mark.parametrize(
    ("name", "split", "n"),
    [
        ("mmlu-pro", "train", 350),
        ("mmlu-pro", "test", 2100),
        ("gpqa", "train", 249),
        ("gpqa", "test", 198),
        ("aime", "train", 354),
        ("aime", "test", 30),
        ("medmcqa", "train", 504),
        ("medmcqa", "test", 4183),
    ],
)
def test_symbolic_moe_splits_are_read_whole(
    recorded_data: Path, name: str, split: str, n: int
) -> None:
    source = Source(recorded_data / "symbolic_moe", splits=(split,))
    benchmark = load_benchmark(name, source)
    assert len(benchmark.questions) == n
    if benchmark.scorer == "choice":
        assert all(question.gold for question in benchmark.questions)
    if name in ("gpqa", "medmcqa"):
        assert {len(question.options) for question in benchmark.questions} == {4}


def test_query_of_a_question_names_its_category(tmp_path: Path) -> None:
    (question,) = load_benchmark(
        "gpqa", Source(_file(tmp_path, [{**CHOICE, "category": "law"}]))
    ).questions
    assert question.query == Query("Which?\n(A) one\n(B) two", "q1", "law")
