from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.datasets import load_outcomes, save_outcomes
from coe.eval.files import replace_file
from coe.outcomes import OutcomeTable
from coe.types import Query

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def _assert_same(read: OutcomeTable, written: OutcomeTable) -> None:
    assert read.queries == written.queries
    assert read.expert_ids == written.expert_ids
    assert read.answers == written.answers
    assert read.vectors_name == written.vectors_name
    for name in ("scores", "cost_usd", "vectors"):
        one, other = getattr(read, name), getattr(written, name)
        assert (one is None) == (other is None)
        if other is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def _write(path: Path, **columns: list[Any]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_round_trip_is_exact(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "new" / "table.parquet"
    vectors = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    written = replace(table, vectors=vectors, vectors_name="tiny")
    save_outcomes(written, file)
    _assert_same(load_outcomes(file), written)


def test_round_trip_of_scores_alone_is_exact(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    written = replace(table, answers=None, cost_usd=None)
    save_outcomes(written, file)
    _assert_same(load_outcomes(file), written)


def test_split_is_read_alone(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    save_outcomes(table, file, splits=["train", "test", "test", "train"])
    _assert_same(load_outcomes(file, "test"), table.rows(np.array([1, 2])))
    _assert_same(load_outcomes(file), table)


def test_unknown_split_names_those_there_are(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    save_outcomes(table, file, splits="train")
    with pytest.raises(DatasetError, match=r"no split 'tets' \(it has train\)"):
        load_outcomes(file, "tets")


def test_table_without_splits_has_none_to_ask_for(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    save_outcomes(table, file)
    with pytest.raises(DatasetError, match="no column 'split'"):
        load_outcomes(file, "train")


def test_further_columns_are_kept_for_others(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    errors = [[None, "died", None]] * 4
    save_outcomes(table, file, further={"error": errors})
    assert parquet.read_table(file)["error"].to_pylist() == [None, "died", None] * 4
    _assert_same(load_outcomes(file), table)


def test_table_made_by_hand_is_read(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "mine.parquet",
        query_id=[7, 9, 7],
        text=["seven", "nine", "seven"],
        expert=["small", "small", "big"],
        score=[1, 0, None],
        comment=["x", "y", "z"],
    )
    read = load_outcomes(file)
    assert read.queries == (Query("seven", "7"), Query("nine", "9"))
    assert read.expert_ids == ("small", "big")
    np.testing.assert_array_equal(read.scores, [[1.0, np.nan], [0.0, np.nan]])
    assert read.answers is None
    assert read.cost_usd is None


def test_order_is_that_of_the_rows_whatever_a_dictionary_says(tmp_path: Path) -> None:
    sorted_ids = pa.DictionaryArray.from_arrays([2, 2, 0, 0], ["1", "unused", "2"])
    experts = pa.DictionaryArray.from_arrays([1, 0, 0, 1], ["a", "b"])
    rows = {
        "query_id": sorted_ids,
        "text": ["two", "two", "one", "one"],
        "expert": experts,
        "score": [0.25, 0.5, 0.75, 1.0],
    }
    file = tmp_path / "m.parquet"
    parquet.write_table(pa.table(rows), file)
    read = load_outcomes(file)
    assert read.queries == (Query("two", "2"), Query("one", "1"))
    assert read.expert_ids == ("b", "a")
    assert read.scores.tolist() == [[0.25, 0.5], [1.0, 0.75]]


def test_missing_column_is_named(tmp_path: Path) -> None:
    file = _write(tmp_path / "mine.parquet", query_id=["1"], text=["one"], score=[1.0])
    with pytest.raises(DatasetError, match=r"mine\.parquet: has no column 'expert'"):
        load_outcomes(file)


def test_missing_file_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.parquet: no such file; .*--record"):
        load_outcomes(tmp_path / "nothing.parquet")


def test_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    file.write_text("query_id,text")
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        load_outcomes(file)


@pytest.mark.parametrize("score", [1.5, -0.1, 85.0])
def test_score_out_of_range_is_refused(score: float, tmp_path: Path) -> None:
    file = _write(tmp_path / "m.parquet", query_id=["1"], text=["one"], expert=["a"], score=[score])
    with pytest.raises(DatasetError, match="not between 0 and 1"):
        load_outcomes(file)


def test_pair_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "m.parquet",
        query_id=["1", "1"],
        text=["one", "one"],
        expert=["a", "a"],
        score=[1.0, 0.0],
    )
    with pytest.raises(DatasetError, match="occur twice"):
        load_outcomes(file)


def test_ids_that_are_not_unique_are_not_saved(table: OutcomeTable, tmp_path: Path) -> None:
    twice = replace(table, queries=(table.queries[0], *table.queries[:3]))
    with pytest.raises(DatasetError, match="share an id"):
        save_outcomes(twice, tmp_path / "table.parquet")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    file.write_text("old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(file, fails)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
