"""Published result archives, from a server on loopback."""

from __future__ import annotations

import io
import json
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.cli import main
from coe.errors import DatasetError
from coe.eval.archives import listed_archives, pull
from coe.eval.datasets import load_mmlu_pro
from coe.eval.mmlu_pro_results import build_mmlu_pro

pytest.importorskip("pyarrow")

N = 40


def _records(letter: str, n: int = N) -> list[dict[str, Any]]:
    return [
        {
            "question_id": i,
            "question": f"question number {i}",
            "options": ["one", "two", "three"],
            "answer": "ABC"[i % 3],
            "answer_index": i % 3,
            "category": "law" if i % 2 else "math",
            "pred": "Z",
            "model_outputs": f"I think. The answer is ({letter}).",
        }
        for i in range(n)
    ]


def _zip(records: Sequence[Mapping[str, Any]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("model_outputs.json", json.dumps(records))
        archive.writestr("__MACOSX/._model_outputs.json", "no json")
    return content.getvalue()


class _Server(ThreadingHTTPServer):
    files: dict[str, bytes]
    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as opened:
        opened.asked = []
        archives = {
            "model_outputs_Some-7B-Instruct_5shots.zip": _zip(_records("A")),
            "model_outputs_Mixtral-8x7B_5shots.json.zip": _zip(_records("B", N - 1)),
        }
        opened.files = {f"/{name}": content for name, content in archives.items()}
        listing = [
            {"name": n, "type": "file", "size": len(c), "download_url": f"{_url(opened)}/{n}"}
            for n, c in archives.items()
        ]
        listing.append({"name": "summary.json", "type": "file", "download_url": "", "size": 1})
        opened.files["/listing"] = json.dumps(listing).encode()
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def _url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_pulled_archives_become_tables_that_are_judged(server: _Server, tmp_path: Path) -> None:
    archives = listed_archives(f"{_url(server)}/listing")
    files = pull(archives, tmp_path / "archives", lambda: None)
    assert build_mmlu_pro(files, tmp_path) == (2, N)
    whole = load_mmlu_pro(tmp_path, pool=["Some-7B-Instruct", "Mixtral-8x7B"])
    assert whole.table.n_queries == N
    assert whole.table.column("Some-7B-Instruct").mean() == pytest.approx(14 / N)
    assert np.isnan(whole.table.column("Mixtral-8x7B")).sum() == 1
    small = load_mmlu_pro(tmp_path, "test", "small")
    assert small.pool.ids == ("Some-7B-Instruct",)
    assert small.pool.experts[0].params_active_b == 7.0
    assert 0 < small.table.n_queries < N


def test_pull_goes_on_with_what_is_missing(server: _Server, tmp_path: Path) -> None:
    archives = listed_archives(f"{_url(server)}/listing")
    pull(archives[:1], tmp_path, lambda: None)
    server.asked.clear()
    pull(archives, tmp_path, lambda: None)
    assert server.asked == [f"/{archives[1].name}"]


def test_pull_that_fails_leaves_no_half_of_a_file(server: _Server, tmp_path: Path) -> None:
    archives = listed_archives(f"{_url(server)}/listing")
    server.files[f"/{archives[0].name}"] = b"short"
    with pytest.raises(DatasetError, match="5 bytes came of"):
        pull(archives, tmp_path, lambda: None)
    del server.files[f"/{archives[0].name}"]
    with pytest.raises(DatasetError, match=r"cannot be fetched .*404.*name their folder as --from"):
        pull(archives, tmp_path, lambda: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[]", b'[{"type": "file"}]'])
def test_listing_that_is_none_is_told(server: _Server, content: bytes) -> None:
    server.files["/listing"] = content
    with pytest.raises(DatasetError, match=r"/listing: (is no listing|lists no archive)"):
        listed_archives(f"{_url(server)}/listing")


def test_listing_of_a_file_address_is_refused() -> None:
    with pytest.raises(DatasetError, match="is no address of the web"):
        listed_archives("file:///etc/passwd")


def _archive(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> Path:
    file = folder / name
    file.write_bytes(_zip(records))
    return file


def test_archives_that_disagree_on_a_question_lose_it(tmp_path: Path) -> None:
    records = _records("A")
    revised = [{**record, "answer": "C"} if i == 0 else record for i, record in enumerate(records)]
    files = [_archive(tmp_path, f"{n}.zip", r) for n, r in (("x", records), ("y", revised))]
    assert build_mmlu_pro(files, tmp_path) == (2, N - 1)


def test_archives_that_cannot_be_read_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"bad\.zip: is no archive of results"):
        build_mmlu_pro([bad], tmp_path)
    lacking = _archive(tmp_path, "lacking.zip", [{"question_id": 1}])
    with pytest.raises(DatasetError, match=r"lacking\.zip: record 1: has no 'question'"):
        build_mmlu_pro([lacking], tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_data_pull_builds_the_tables(
    server: _Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["mmlu-pro-outcomes", "--out", str(tmp_path), "--from", f"{_url(server)}/listing"]
    monkeypatch.setattr(sys, "argv", ["coe", "data", "pull", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out == f"2 experts, {N} questions: {tmp_path}\n"
    monkeypatch.setattr(sys, "argv", ["coe", "data", "pull", "mmlu-outcomes", *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "did you mean 'mmlu-pro-outcomes'" in capsys.readouterr().err
