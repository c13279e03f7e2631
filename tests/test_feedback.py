from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError
from coe.feedback import Rating, feedback_table, merged, read_feedback
from coe.feedback_log import (
    MAX_TEXT_CHARS,
    MOST_REPLACED,
    FeedbackFull,
    FeedbackLog,
    FeedbackSettled,
    UnclearExpert,
    UnknownDecision,
)
from coe.outcomes import OutcomeTable
from coe.routing import RoutingDecision
from coe.types import Query

NAN = float("nan")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "feedback.jsonl"


@pytest.fixture
def log(file: Path) -> Iterator[FeedbackLog]:
    log = FeedbackLog(file, clock=lambda: 7.0)
    yield log
    log.close()


def decide(
    log: FeedbackLog, decision_id: str, text: str = "capital of Peru?", *answered: str
) -> None:
    decision = RoutingDecision(decision_id, ("a",), {"a": 0.75, "b": 0.5}, "knn/top-1")
    log.remember(decision_id, text, decision, answered or ("a",))


def test_feedback_is_read_with_the_query_it_is_about(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1")
    recorded = log.record("d1", 1.0)
    assert (recorded.expert_id, recorded.is_replacement) == ("a", False)
    assert read_feedback(file) == ((Rating("d1", "capital of Peru?", "a", 1.0),), 0)


def test_decision_event_says_what_was_decided(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "line\none", "b", "a")
    log.record("d1", 0.5, "b")
    decision, feedback = map(json.loads, file.read_text("utf-8").splitlines())
    assert decision == {
        "event": "decision",
        "id": "d1",
        "time_s": 7.0,
        "text": "line\none",
        "asked": ["a"],
        "answered": ["b", "a"],
        "router": "knn/top-1",
        "scores": {"a": 0.75, "b": 0.5},
    }
    assert feedback == {
        "event": "feedback",
        "id": "d1",
        "time_s": 7.0,
        "expert": "b",
        "score": 0.5,
    }


def test_texts_nobody_rated_stay_out_of_the_feedback_file(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "a secret")
    assert file.read_bytes() == b""
    assert b"a secret" in file.with_name("feedback.jsonl.recent").read_bytes()


def test_second_feedback_replaces_the_first(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1")
    assert not log.record("d1", 1.0).is_replacement
    assert log.record("d1", 0.0).is_replacement
    (rating,), _ = read_feedback(file)
    assert rating.score == 0.0


def test_the_same_score_again_is_not_written(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1")
    log.record("d1", 1.0)
    size = file.stat().st_size
    assert log.record("d1", 1.0).is_replacement
    assert file.stat().st_size == size
    # It is compared with the last score, not with any.
    log.record("d1", 0.0)
    log.record("d1", 1.0)
    assert read_feedback(file)[0][0].score == 1.0


def test_one_answer_cannot_fill_the_file(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "q", "a", "b")
    for i in range(MOST_REPLACED + 1):
        assert log.record("d1", i % 2, "a").is_replacement is (i > 0)
    size = file.stat().st_size
    with pytest.raises(FeedbackSettled, match=f"replaced {MOST_REPLACED} times"):
        log.record("d1", 0.5, "a")
    log.close()
    again = FeedbackLog(file)
    with pytest.raises(FeedbackSettled):
        again.record("d1", 0.5, "a")
    assert file.stat().st_size == size
    assert not again.record("d1", 0.5, "b").is_replacement
    again.close()


def test_feedback_on_an_unknown_decision_is_refused(log: FeedbackLog, file: Path) -> None:
    with pytest.raises(UnknownDecision):
        log.record("d1", 1.0)
    assert file.read_bytes() == b""


def test_feedback_on_several_experts_has_to_name_one(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "q", "a", "b")
    with pytest.raises(UnclearExpert, match="a, b answered; which"):
        log.record("d1", 1.0)
    with pytest.raises(UnclearExpert, match="none is the one named"):
        log.record("d1", 1.0, "c")
    log.record("d1", 1.0, "b")
    assert not log.record("d1", 0.0, "a").is_replacement
    assert {r.expert_id: r.score for r in read_feedback(file)[0]} == {"b": 1.0, "a": 0.0}


def test_everything_survives_a_restart(file: Path) -> None:
    log = FeedbackLog(file)
    decide(log, "rated")
    decide(log, "unrated", "another")
    log.record("rated", 1.0)
    log.close()
    again = FeedbackLog(file)
    assert again.record("rated", 0.0).is_replacement
    assert not again.record("unrated", 1.0).is_replacement
    again.close()
    assert [(r.decision_id, r.score) for r in read_feedback(file)[0]] == [
        ("rated", 0.0),
        ("unrated", 1.0),
    ]


def test_files_are_the_owners_only(log: FeedbackLog, file: Path) -> None:
    files = sorted(path.name for path in file.parent.iterdir())
    assert files == ["feedback.jsonl", "feedback.jsonl.recent", "feedback.jsonl.recent.1"]
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_others_could_read_is_closed_to_them(file: Path) -> None:
    file.touch(0o644)
    FeedbackLog(file).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("n_lost", [1, 5, 40])
def test_torn_last_line_is_passed_over_and_written_after(file: Path, n_lost: int) -> None:
    log = FeedbackLog(file)
    decide(log, "d1")
    decide(log, "d2")
    log.record("d1", 1.0)
    log.record("d1", 0.0)
    log.close()
    whole = file.read_bytes()
    file.write_bytes(whole[:-n_lost])
    n_torn = int(n_lost > 1)
    (rating,), told = read_feedback(file)
    assert (rating.score, told) == (float(n_torn), n_torn)
    again = FeedbackLog(file)
    again.record("d2", 1.0)
    again.close()
    ratings, told = read_feedback(file)
    assert ([r.decision_id for r in ratings], told) == (["d1", "d2"], n_torn)


def test_torn_decision_is_forgotten_and_the_others_are_not(file: Path) -> None:
    log = FeedbackLog(file)
    decide(log, "d1")
    decide(log, "d2")
    log.close()
    recent = file.with_name("feedback.jsonl.recent")
    recent.write_bytes(recent.read_bytes()[:-20])
    again = FeedbackLog(file)
    decide(again, "d3")
    again.record("d1", 1.0)
    again.record("d3", 1.0)
    with pytest.raises(UnknownDecision):
        again.record("d2", 1.0)
    again.close()


def test_recent_decisions_are_bounded(file: Path) -> None:
    log = FeedbackLog(file, recent_bytes=4000)
    for i in range(100):
        decide(log, f"d{i}")
    paths = [file.with_name(f"feedback.jsonl.recent{end}") for end in ("", ".1")]
    assert all(path.stat().st_size <= 2000 for path in paths)
    n_kept = sum(len(path.read_bytes().splitlines()) for path in paths)
    assert 10 < n_kept < 40
    log.record(f"d{100 - n_kept}", 1.0)
    with pytest.raises(UnknownDecision):
        log.record(f"d{99 - n_kept}", 1.0)
    log.close()


def test_what_was_rated_outlives_the_recent_decisions(file: Path) -> None:
    log = FeedbackLog(file, recent_bytes=2000)
    decide(log, "d1", "kept")
    log.record("d1", 1.0)
    for i in range(100):
        decide(log, f"other{i}")
    assert log.record("d1", 0.0).is_replacement
    log.close()
    assert read_feedback(file)[0] == (Rating("d1", "kept", "a", 0.0),)


def test_full_file_refuses_and_says_what_to_do(file: Path) -> None:
    log = FeedbackLog(file, max_bytes=850)
    for decision_id in ("d1", "d2", "d3"):
        decide(log, decision_id)
        log.record(decision_id, 1.0)
    decide(log, "d4")
    with pytest.raises(FeedbackFull, match="--from-feedback"):
        log.record("d4", 1.0)
    log.close()
    assert file.stat().st_size <= 850
    assert len(read_feedback(file)[0]) == 3


def test_overlong_query_is_kept_in_part(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "x" * (MAX_TEXT_CHARS + 5))
    log.record("d1", 1.0)
    assert read_feedback(file)[0][0].text == "x" * MAX_TEXT_CHARS


@pytest.mark.parametrize("text", ["é ☃", "line\nbreak\r\u2028\u0085", '"quoted"\\'])
def test_any_text_is_kept(log: FeedbackLog, file: Path, text: str) -> None:
    decide(log, "d1", text)
    log.record("d1", 1.0)
    assert read_feedback(file)[0][0].text == text


def test_text_that_utf8_cannot_carry_is_kept_in_part(log: FeedbackLog, file: Path) -> None:
    decide(log, "d1", "a\ud800b")
    log.record("d1", 1.0)
    assert read_feedback(file)[0][0].text == "a?b"


def test_second_gateway_cannot_have_the_file(log: FeedbackLog, file: Path) -> None:
    with pytest.raises(ConfigError, match="another gateway"):
        FeedbackLog(file)


def test_file_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"router\.feedback"):
        FeedbackLog(tmp_path / "absent" / "feedback.jsonl")


def test_closed_log_writes_nowhere(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = FeedbackLog(file)
    log.close()
    # Takes the number of a descriptor that the log had.
    with (tmp_path / "innocent").open("w") as innocent, caplog.at_level(logging.WARNING):
        decide(log, "d1")
        decide(log, "d2")
        innocent.flush()
    assert (tmp_path / "innocent").read_bytes() == b""
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "decisions cannot be remembered for feedback"
    ]


def test_full_disk_loses_one_line_and_no_more(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FeedbackLog(file)
    decide(log, "d1")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:9]))
    with pytest.raises(OSError, match="No space left"):
        log.record("d1", 1.0)
    assert file.read_bytes() == b""
    monkeypatch.undo()
    assert not log.record("d1", 1.0).is_replacement
    log.close()
    assert len(read_feedback(file)[0]) == 1


def test_a_failure_to_turn_the_recent_files_is_got_over(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = FeedbackLog(file, recent_bytes=2000)
    decide(log, "d0")
    line = file.with_name("feedback.jsonl.recent").stat().st_size
    n_that_fit = 1000 // line
    for i in range(1, n_that_fit):
        decide(log, f"d{i}")

    def no_more(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "open", no_more)
    with caplog.at_level(logging.WARNING):
        decide(log, "lost")
    assert "too many open files" in caplog.text
    monkeypatch.undo()
    decide(log, "next")
    log.record("d0", 1.0)
    log.record("next", 1.0)
    with pytest.raises(UnknownDecision):
        log.record("lost", 1.0)
    log.close()
    again = FeedbackLog(file)
    again.record(f"d{n_that_fit - 1}", 1.0)
    again.close()


def test_threads_lose_nothing(file: Path) -> None:
    log = FeedbackLog(file, recent_bytes=1 << 20)

    def rate(thread: int) -> None:
        for i in range(20):
            decide(log, f"{thread}-{i}")
            log.record(f"{thread}-{i}", 1.0)

    threads = [threading.Thread(target=rate, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    ratings, n_torn = read_feedback(file)
    assert (len(ratings), n_torn) == (80, 0)


@pytest.mark.parametrize(
    "line",
    [
        '{"event":"feedback","id":"d1","expert":"a","score":2}',
        '{"event":"feedback","id":"d1","expert":"a","score":NaN}',
        '{"event":"feedback","id":"d1","expert":"a","score":"1"}',
        '{"event":"feedback","id":"d1","score":1}',
        '{"event":"decision","id":"d1","text":"q","answered":"a"}',
        '{"event":["decision"],"id":"d1"}',
        '{"event":"else","id":"d1"}',
        "[1]",
        "\\xff",
    ],
)
def test_line_that_is_no_event_is_passed_over(log: FeedbackLog, file: Path, line: str) -> None:
    decide(log, "d1")
    log.record("d1", 1.0)
    with file.open("a", encoding="utf-8") as more:
        more.write(f"{line}\n")
    ratings, n_torn = read_feedback(file)
    assert ([r.score for r in ratings], n_torn) == ([1.0], 1)


def test_reading_what_is_no_feedback_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="no feedback file"):
        read_feedback(tmp_path / "notes")
    with pytest.raises(DatasetError, match=r"router\.feedback"):
        read_feedback(tmp_path / "absent")


def test_table_has_one_row_a_text_and_nan_where_nobody_was_asked() -> None:
    ratings = (
        Rating("d1", "x", "a", 1.0),
        Rating("d2", "y", "b", 0.25),
        Rating("d3", "x", "a", 0.0),
        Rating("d4", "z", "gone", 1.0),
    )
    table = feedback_table(ratings, ("b", "a"))
    assert [(q.text, q.id) for q in table.queries] == [("x", "d1"), ("y", "d2")]
    np.testing.assert_array_equal(table.scores, [[NAN, 0.5], [0.25, NAN]])


def test_merged_table_has_the_feedbacks_columns_and_both_ones_rows() -> None:
    recorded = OutcomeTable(
        (Query("r0", "0", "maths"), Query("r1", "1")),
        ("gone", "a"),
        np.array([[1.0, 0.5], [1.0, NAN]]),
        answers=(("g", "A"), ("g", None)),
        cost_usd=np.array([[1.0, 2.0], [3.0, 4.0]]),
    )
    feedback = feedback_table((Rating("d1", "x", "new", 1.0),), ("a", "new"))
    table = merged(recorded, feedback)
    assert table.expert_ids == ("a", "new")
    # Of r1 nothing is known of any expert that is left.
    assert table.queries == (Query("r0", "0", "maths"), Query("x", "d1"))
    np.testing.assert_array_equal(table.scores, [[0.5, NAN], [NAN, 1.0]])
    assert table.answers == (("A", None), (None, None))
    assert table.cost_usd is not None
    np.testing.assert_array_equal(table.cost_usd, [[2.0, NAN], [NAN, NAN]])


def test_merging_no_feedback_changes_nothing() -> None:
    recorded = OutcomeTable((Query("r0", "0"),), ("a", "b"), np.array([[1.0, 0.0]]))
    assert merged(recorded, feedback_table((), ("a", "b"))).digest() == recorded.digest()


@pytest.fixture
def workers(file: Path) -> Iterator[list[FeedbackLog]]:
    """Two processes of one gateway."""
    logs = [FeedbackLog(file, worker=number) for number in range(2)]
    yield logs
    for log in logs:
        log.close()


def test_feedback_finds_the_decision_of_another_worker(
    workers: list[FeedbackLog], file: Path
) -> None:
    one, other = workers
    decide(one, "d1")
    decide(other, "d2")
    assert other.record("d1", 1.0).expert_id == "a"
    assert one.record("d2", 0.5).expert_id == "a"
    assert one.record("d1", 0.25).is_replacement, "told by the other one meanwhile"
    ratings, n_torn = read_feedback(file)
    assert [(r.decision_id, r.score) for r in ratings] == [("d1", 0.25), ("d2", 0.5)]
    assert n_torn == 0
    with pytest.raises(UnknownDecision):
        one.record("d", 1.0)  # the beginning of an id is none


def test_workers_replace_a_score_no_more_often_than_one_would(workers: list[FeedbackLog]) -> None:
    decide(workers[0], "d1")
    for number in range(MOST_REPLACED + 1):
        workers[number % 2].record("d1", number / 10)
    for log in workers:
        with pytest.raises(FeedbackSettled):
            log.record("d1", 1.0)


def test_workers_fill_the_file_together(file: Path) -> None:
    logs = [FeedbackLog(file, max_bytes=600, worker=number) for number in range(2)]
    for number in range(9):
        decide(logs[number % 2], f"d{number}")
    n_taken = 0
    with suppress(FeedbackFull):
        for number in range(9):
            logs[number % 2].record(f"d{number}", 1.0)
            n_taken += 1
    assert 0 < n_taken < 9
    assert file.stat().st_size <= 600
    for log in logs:
        log.close()


def test_worker_that_is_started_again_knows_what_was_decided(file: Path) -> None:
    first = FeedbackLog(file, worker=1)
    decide(first, "d1")
    first.close()
    again = FeedbackLog(file, worker=1)
    assert again.record("d1", 1.0).expert_id == "a"
    decide(again, "d2")
    with pytest.raises(ConfigError, match="another gateway"):
        FeedbackLog(file)
    again.close()
    alone = FeedbackLog(file)
    assert alone.record("d2", 1.0).expert_id == "a"
    with pytest.raises(ConfigError, match="another gateway"):
        FeedbackLog(file, worker=0)
    alone.close()
