"""Collections in both forms of BEIR, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coe.errors import DatasetError
from coe.eval.beir import load_collection, load_collections

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Rows = list[dict[str, Any]]

DOCUMENTS: Rows = [
    {"_id": "d1", "title": "Keel", "text": "below the hull"},
    {"_id": "d2", "title": "", "text": "flour and yeast"},
    {"_id": "d3", "title": "Only a title", "text": ""},
]
QUERIES: Rows = [
    {"_id": "q1", "text": "what is below?"},
    {"_id": "q2", "text": "what rises?"},
    {"_id": "q3", "text": "judged by nobody"},
]
TRAIN, TEST = ["q1\td1\t2", "q1\td2\t0"], ["q2\td2\t1", "q2\td3\t1"]
HEADER = "query-id\tcorpus-id\tscore"


def _beir(
    folder: Path,
    documents: Sequence[object] = DOCUMENTS,
    queries: Sequence[object] = QUERIES,
    qrels: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, judged in (qrels or {"train": TRAIN, "test": TEST}).items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([HEADER, *judged]) + "\n")
    return folder


def _tables(folder: Path, **changes: Mapping[str, list[Any]]) -> Path:
    tables: dict[str, Mapping[str, list[Any]]] = {
        "corpus": {
            "doc_id": [row["_id"] for row in DOCUMENTS],
            "title": [row["title"] for row in DOCUMENTS],
            "text": [row["text"] for row in DOCUMENTS],
        },
        "queries": {
            "query_id": [row["_id"] for row in QUERIES],
            "text": [row["text"] for row in QUERIES],
            "split": ["train", "test", "test"],
        },
        "qrels": {
            "query_id": ["q1", "q1", "q2", "q2"],
            "doc_id": ["d1", "d2", "d2", "d3"],
            "relevance": [2, 0, 1, 1],
        },
    }
    folder.mkdir(parents=True)
    for name, columns in {**tables, **changes}.items():
        parquet.write_table(pa.table(dict(columns)), folder / f"{name}.parquet")
    return folder


def test_both_forms_give_the_same_collection(tmp_path: Path) -> None:
    lines = load_collection(_beir(tmp_path / "a" / "beir_mix"))
    tables = load_collection(_tables(tmp_path / "b" / "mix"))
    assert lines.name == tables.name == "mix"
    assert lines.digest() == tables.digest()
    assert lines.documents == tables.documents
    assert lines.documents[0].whole == "Keel below the hull"
    assert lines.documents[1].whole == "flour and yeast"


def test_queries_that_nothing_answers_are_left_out(tmp_path: Path) -> None:
    collection = load_collection(_beir(tmp_path / "mix"))
    assert [query.id for query in collection.queries] == ["q1", "q2"]
    assert collection.qrels == {"q1": {"d1": 2}, "q2": {"d2": 1, "d3": 1}}
    assert collection.queries[0].category == "mix"


def test_split_is_the_file_that_judges_the_query(tmp_path: Path) -> None:
    collection = load_collection(_beir(tmp_path / "mix"))
    assert [query.id for query in collection.split("train").queries] == ["q1"]
    assert [query.id for query in collection.split("test").queries] == ["q2"]
    assert collection.split("test").documents is collection.documents


def test_folder_of_collections_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("beir_b", "a", "c"):
        _beir(tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert [each.name for each in load_collections(tmp_path)] == ["a", "b", "c"]
    assert [each.name for each in load_collections(tmp_path / "a")] == ["a"]


def test_two_collections_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("beir_a", "a"):
        _beir(tmp_path / name)
    with pytest.raises(DatasetError, match="two collections are named 'a'; rename a folder"):
        load_collections(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"documents": [*DOCUMENTS, "{no json"]}, r"corpus.jsonl: line 4: is no JSON"),
        ({"documents": [*DOCUMENTS, "[1]"]}, r"corpus.jsonl: line 4: must be a JSON object"),
        ({"documents": [*DOCUMENTS, {"text": "x"}]}, r"corpus.jsonl: line 4: `_id` is missing"),
        (
            {"documents": [*DOCUMENTS, {"_id": "d4", "text": 7}]},
            r"corpus.jsonl: line 4: `text` is 7; it must be text",
        ),
        (
            {"documents": [*DOCUMENTS, {"_id": "d1", "text": "x"}]},
            r"corpus.jsonl: line 4: the id 'd1' was given at .*line 1 already; .*delete or rename",
        ),
        (
            {"queries": [*QUERIES, {"_id": "q1", "text": "again"}]},
            r"queries.jsonl: line 4: the id 'q1' was given at .*line 1 already",
        ),
        ({"queries": [{"_id": "q1", "text": " "}]}, r"queries.jsonl: line 1: `text` is ' '; every"),
        (
            {"qrels": {"test": ["q1\td9\t1"]}},
            r"test.tsv: line 2: document 'd9' is judged and not in the collection.*delete the row",
        ),
        (
            {"qrels": {"test": ["q11\td1\t1"]}},
            r"test.tsv: line 2: query 'q11' is judged and not.*did you mean 'q1'",
        ),
        ({"qrels": {"test": ["q1\td1\thigh"]}}, r"line 2: relevance is 'high'; give a whole"),
        ({"qrels": {"test": ["q1\td1"]}}, r"test.tsv: line 2: has 2 cells and needs 3"),
        (
            {"qrels": {"test": ["q1\td1\t1", "q1\td1\t2"]}},
            r"line 3: query 'q1' and document 'd1' were judged at .*line 2 already; keep one",
        ),
        (
            {"qrels": {"dev": ["q1\td1\t1"], "test": ["q1\td2\t1"]}},
            r"test.tsv: line 2: query 'q1' is judged in the splits 'dev' and 'test'",
        ),
        ({"qrels": {"test": ["q1\td1\t0"]}}, r"no query has a relevant document"),
    ],
)
def test_malformed_lines_name_file_line_and_remedy(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DatasetError, match=told):
        load_collection(_beir(tmp_path / "mix", **changes))


def test_qrels_without_a_header_are_refused(tmp_path: Path) -> None:
    folder = _beir(tmp_path / "mix")
    (folder / "qrels" / "test.tsv").write_text("q2\td2\t1\n")
    with pytest.raises(DatasetError, match=r"test.tsv: line 1: the header is .*'query-id'"):
        load_collection(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corpus": {"doc_id": ["d1"], "title": ["t"]}}, r"corpus.parquet: has no column 'text'"),
        (
            {"corpus": {"doc_id": ["d1", "d1"], "text": ["a", "b"]}},
            r"corpus.parquet: row 1: the id 'd1' was given at .*row 0 already",
        ),
        (
            {"queries": {"query_id": ["q1", "q2"], "text": ["a", None]}},
            r"queries.parquet: row 1: `text` is missing; every row needs it",
        ),
        (
            {"qrels": {"query_id": ["q1"], "doc_id": [None], "relevance": [1]}},
            r"qrels.parquet: row 0: the id of the document is missing",
        ),
        (
            {"qrels": {"query_id": ["q1"], "doc_id": ["d1"], "relevance": [0.5]}},
            r"qrels.parquet: row 0: relevance is 0.5; give a whole number",
        ),
    ],
)
def test_malformed_tables_name_file_row_and_remedy(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(DatasetError, match=told):
        load_collection(_tables(tmp_path / "mix", **changes))


def test_damaged_table_is_told(tmp_path: Path) -> None:
    folder = _tables(tmp_path / "mix")
    (folder / "corpus.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError, match=r"corpus.parquet: cannot be read as parquet"):
        load_collection(folder)


@pytest.mark.parametrize("missing", ["queries.jsonl", "qrels/train.tsv"])
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = _beir(tmp_path / "mix", qrels={"train": TRAIN})
    (folder / missing).unlink()
    with pytest.raises(DatasetError, match=r"(queries.jsonl|qrels): (no such file|holds no)"):
        load_collection(folder)


def test_folder_without_collections_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no collection; .*docs/retrieval.md"):
        load_collections(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        load_collections(tmp_path / "absent")


def test_shared_collections_are_what_their_readme_says(recorded_data: Path) -> None:
    scifact = load_collection(recorded_data / "beir_scifact")
    assert (len(scifact.documents), len(scifact.queries)) == (5183, 1109)
    assert len(scifact.split("test").queries) == 300
    assert sum(len(relevant) for relevant in scifact.judgements()) == 1258
