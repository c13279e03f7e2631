"""Whatever is cut off, what was finished is kept."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coe.errors import ConfigError
from coe.service.batches.journal import Journal


def _answer(custom_id: str, text: str = "yes", status: int = 200) -> bytes:
    response = {"status_code": status, "body": {"text": text}}
    return orjson.dumps({"id": f"id-{custom_id}", "custom_id": custom_id, "response": response})


REQUEST_IDS = {custom_id: f"id-{custom_id}" for custom_id in ("a", "b")}


def _journal_file(folder: Path) -> Path:
    return folder / ".out.jsonl.journal"


def _input(folder: Path, text: str = "requests") -> Path:
    file = folder / "in.jsonl"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_finished_run_leaves_the_output_alone_in_the_order_asked(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.jsonl", _input(tmp_path)) as journal:
        for custom_id in ("b", "a"):
            journal.add(custom_id, _answer(custom_id))
        journal.finish(["a", "b"])
    assert (tmp_path / "out.jsonl").read_bytes() == _answer("a") + b"\n" + _answer("b") + b"\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@settings(deadline=None, max_examples=60)
@given(n_bytes_lost=st.integers(0, 400), n_done=st.integers(0, 4))
def test_a_journal_cut_anywhere_keeps_every_whole_line(n_bytes_lost: int, n_done: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = _input(folder)
        with Journal(folder / "out.jsonl", file) as journal:
            for i in range(n_done):
                journal.add(str(i), _answer(str(i)))
        whole = _journal_file(folder).read_bytes()
        cut = whole[: max(0, len(whole) - n_bytes_lost)]
        _journal_file(folder).write_bytes(cut)
        kept = [str(i) for i in range(n_done) if _answer(str(i)) in cut]
        with Journal(folder / "out.jsonl", file) as journal:
            assert sorted(journal.done) == kept
            for i in range(n_done):
                if str(i) not in kept:
                    journal.add(str(i), _answer(str(i)))
        with Journal(folder / "out.jsonl", file) as journal:
            assert sorted(journal.done) == [str(i) for i in range(n_done)]
            journal.finish([str(i) for i in range(n_done)])
        lines = (folder / "out.jsonl").read_bytes().splitlines()
        assert lines == [_answer(str(i)) for i in range(n_done)]


def test_another_input_is_not_mixed_in(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.jsonl", _input(tmp_path)) as journal:
        journal.add("a", _answer("a"))
    with (
        pytest.raises(ConfigError, match="begun for another input"),
        Journal(tmp_path / "out.jsonl", _input(tmp_path, "others")),
    ):
        pass


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    file = _input(tmp_path)
    with (
        Journal(tmp_path / "out.jsonl", file),
        pytest.raises(ConfigError, match="another run"),
        Journal(tmp_path / "out.jsonl", file),
    ):
        pass


def test_an_output_that_exists_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious", encoding="utf-8")
    with (
        pytest.raises(ConfigError, match="exists"),
        Journal(tmp_path / "out.jsonl", _input(tmp_path)),
    ):
        pass
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "precious"


def test_an_output_is_gone_on_from_and_stays_until_the_next_is_whole(tmp_path: Path) -> None:
    out, file = tmp_path / "out.jsonl", _input(tmp_path)
    with Journal(out, file) as journal:
        journal.add("a", _answer("a"))
        journal.add("b", _answer("b", "no", 502))
        journal.finish(["a", "b"])
    before = out.read_bytes()
    for _ in range(2):  # the first of them is killed
        with Journal(out, file, REQUEST_IDS) as journal:
            assert (list(journal.done), list(journal.failed)) == (["a"], [])
        assert out.read_bytes() == before
    with Journal(out, file, REQUEST_IDS) as journal:
        journal.add("b", _answer("b"))
        journal.finish(["a", "b"])
    assert out.read_bytes() == _answer("a") + b"\n" + _answer("b") + b"\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    "request_ids",
    [{"a": "id-a"}, {"a": "id-a", "b": "another line"}, {"a": "id-a", "c": "id-c"}],
)
def test_an_output_of_other_requests_is_not_gone_on_from(
    tmp_path: Path, request_ids: dict[str, str]
) -> None:
    out, file = tmp_path / "out.jsonl", _input(tmp_path)
    out.write_bytes(_answer("a") + b"\n" + _answer("b") + b"\n")
    with (
        pytest.raises(ConfigError, match="other lines than answers to these requests"),
        Journal(out, file, request_ids),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_file_that_is_no_output_is_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious", encoding="utf-8")
    with (
        pytest.raises(ConfigError, match="other lines"),
        Journal(tmp_path / "out.jsonl", _input(tmp_path), REQUEST_IDS),
    ):
        pass


def test_the_last_line_of_a_request_decides_whether_it_failed(tmp_path: Path) -> None:
    file = _input(tmp_path)
    with Journal(tmp_path / "out.jsonl", file) as journal:
        journal.add("a", _answer("a", status=502))
        journal.add("b", _answer("b", status=502))
        assert sorted(journal.failed) == ["a", "b"]
        journal.forget(journal.failed)
        assert not journal.done
        journal.add("a", _answer("a"))
    with Journal(tmp_path / "out.jsonl", file) as journal:
        assert (sorted(journal.done), sorted(journal.failed)) == (["a", "b"], ["b"])


def test_a_full_disk_leaves_no_half_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _input(tmp_path)
    with Journal(tmp_path / "out.jsonl", file) as journal:
        write, n_calls = os.write, [0]

        def half(fd: int, data: memoryview) -> int:
            n_calls[0] += 1
            if n_calls[0] == 2:
                raise OSError(errno.ENOSPC, "full")
            return write(fd, data[:9])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="full"):
            journal.add("a", _answer("a"))
        monkeypatch.undo()
        assert not journal.done
        journal.add("b", _answer("b"))
    assert _journal_file(tmp_path).read_bytes().splitlines()[1:] == [_answer("b")]


def test_parts_are_kept_until_their_request_is_answered(tmp_path: Path) -> None:
    file = _input(tmp_path)
    with Journal(tmp_path / "out.jsonl", file) as journal:
        for custom_id in ("a", "b", "c"):
            journal.add_part(custom_id, "sums", {"text": f"two {custom_id}"})
        journal.add("a", _answer("a"))
        journal.add("b", _answer("b", status=502))
    with Journal(tmp_path / "out.jsonl", file) as journal:
        assert sorted(journal.done) == ["a", "b"]
        assert journal.part("a", "sums") is None
        assert journal.part("b", "sums") == {"text": "two b"}
        assert journal.part("c", "sums") == {"text": "two c"}
        assert journal.part("c", "places") is None
        assert [list(journal.experts_heard(id_)) for id_ in "abc"] == [[], ["sums"], ["sums"]]


def test_part_that_was_cut_is_passed_over(tmp_path: Path) -> None:
    file = _input(tmp_path)
    with Journal(tmp_path / "out.jsonl", file) as journal:
        journal.add_part("a", "sums", {"text": "two"})
    whole = _journal_file(tmp_path).read_bytes()
    _journal_file(tmp_path).write_bytes(whole[:-5])
    with Journal(tmp_path / "out.jsonl", file) as journal:
        assert journal.part("a", "sums") is None
        journal.add_part("a", "sums", {"text": "three"})
    with Journal(tmp_path / "out.jsonl", file) as journal:
        assert journal.part("a", "sums") == {"text": "three"}
