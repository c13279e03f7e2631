"""What a run keeps while it goes on, and what it reads back after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from coe.errors import ConfigError, DatasetError
from coe.eval.runs.folder import RunFolder
from coe.eval.runs.journal import Journal, Record, Spot
from coe.routing import RoutingDecision
from coe.types import Completion, Timing, Usage

SPOT = Spot("answer", "q1", "a")
WHOLE = Completion("two", "stop", Usage(3, 1), Timing(0.5, 1.0))


def test_run_journal_reads_back_what_was_added(tmp_path: Path) -> None:
    file = tmp_path / "run" / "answers.jsonl"
    with Journal(file) as journal:
        journal.add(Record.of(SPOT, WHOLE, 7.5))
        journal.add(Record(Spot("final", "q1"), error="nobody answered"))
    with Journal(file) as journal:
        record = journal.get(SPOT)
        assert record is not None
        assert record.completion == WHOLE
        assert record.energy_j == 7.5
        assert set(journal.failed) == {Spot("final", "q1")}
        assert journal.get(Spot("write", "q1", "a")) is None


def test_run_journal_without_counts_gives_a_completion_without_counts(tmp_path: Path) -> None:
    bare = Completion("two", "length", None, None)
    with Journal(tmp_path / "answers.jsonl") as journal:
        journal.add(Record.of(SPOT, bare))
        record = journal.get(SPOT)
    assert record is not None
    assert record.completion == bare


def test_run_journal_takes_off_a_last_line_that_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with Journal(file) as journal:
        journal.add(Record.of(SPOT, WHOLE))
        journal.add(Record.of(Spot("answer", "q2", "a"), WHOLE))
    whole = file.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        file.write_bytes(whole[:length])
        with Journal(file) as journal:
            assert set(journal.spots) == {SPOT}
            journal.add(Record.of(Spot("answer", "q2", "a"), WHOLE))
        assert file.read_bytes() == whole


def test_run_journal_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"no": "record"}\n{"of": "a run"}\n', "utf-8")
    with pytest.raises(DatasetError, match="is no record of a run"), Journal(file):
        pass
    assert file.read_text("utf-8").count("\n") == 2


def test_run_journal_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with (
        Journal(file),
        pytest.raises(ConfigError, match="being written by another run"),
        Journal(file),
    ):
        pass


def test_run_journal_forgets_what_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with Journal(file) as journal:
        journal.add(Record(SPOT, error="it was busy"))
        journal.forget(journal.failed)
        assert journal.get(SPOT) is None
        journal.add(Record.of(SPOT, WHOLE))
        assert not journal.failed
    with Journal(file) as journal:
        record = journal.get(SPOT)
        assert record is not None
        assert record.error is None


def test_run_folder_names_what_differs_from_the_run_that_was_begun(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin({"benchmark": "gpqa", "questions": 3}, {"seed": 0})
    folder.begin({"benchmark": "gpqa", "questions": 3}, {"seed": 1})
    with pytest.raises(ConfigError, match="begun with questions 3, not 4"):
        folder.begin({"benchmark": "gpqa", "questions": 4}, {})
    assert folder.read_plan()["provenance"] == {"seed": 0}


def test_run_folder_keeps_decisions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.load_decisions() is None
    decisions = [RoutingDecision("q1", ("a", "b"), {"a": 0.75, "b": 0.5}, "knn/top-2")]
    folder.save_decisions(decisions)
    assert folder.load_decisions() == decisions


def test_run_folder_says_that_there_is_no_run_or_none_that_is_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DatasetError, match="is no run"):
        folder.read_results()
    folder.begin({}, {})
    with pytest.raises(DatasetError, match="is not finished"):
        folder.read_results()
