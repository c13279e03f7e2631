"""`coe batch` ended from outside, and run again: nothing that was finished is asked twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from coe.service.batches.lines import URL

POOL = """
experts:
  - id: a
    engine: {kind: scripted, default: RUN, tokens_per_s: SPEED}
    footprint: {gib: 1}
  - id: b
    engine: {kind: scripted, default: RUN, tokens_per_s: SPEED}
    footprint: {gib: 1}
  - id: c
    engine: {kind: scripted, default: RUN, tokens_per_s: SPEED}
    footprint: {gib: 1}
local_memory_gib: 1
router:
  scorer: random
  policy: {kind: top-k, k: 2}
  aggregator: {kind: AGGREGATOR}
"""
N_REQUESTS = 300


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = []
    for i in range(N_REQUESTS):
        body = {"model": "coe", "messages": [{"role": "user", "content": f"question {i}"}]}
        lines.append({"custom_id": f"r{i}", "method": "POST", "url": URL, "body": body})
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return tmp_path


def _begin(folder: Path, run: str, tokens_per_s: float, aggregator: str) -> subprocess.Popen[str]:
    text = POOL.replace("RUN", run).replace("SPEED", str(tokens_per_s))
    pool = folder / "experts.yaml"
    pool.write_text(text.replace("AGGREGATOR", aggregator), encoding="utf-8")
    files = ["-c", str(pool), str(folder / "in.jsonl"), str(folder / "out.jsonl")]
    command = [sys.executable, "-m", "coe.cli", "batch", *files]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def _wait_for_lines(folder: Path, process: subprocess.Popen[str], n_lines: int) -> bytes:
    journal = folder / ".out.jsonl.journal"
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > n_lines:
            return journal.read_bytes()
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


def _texts(folder: Path) -> list[str]:
    lines = [orjson.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"r{i}" for i in range(N_REQUESTS)]
    return [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["first", "chain"])
def test_killed_batch_keeps_what_each_expert_had_answered(folder: Path, aggregator: str) -> None:
    process = _begin(folder, "before", 40.0, aggregator)
    try:
        _wait_for_lines(folder, process, 400)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    journal = [
        orjson.loads(line)
        for line in (folder / ".out.jsonl.journal").read_bytes().splitlines(keepends=True)[1:]
        if line.endswith(b"\n")
    ]
    parts = Counter(line["custom_id"] for line in journal if "expert" in line)
    finished = {line["custom_id"] for line in journal if "expert" not in line}
    whole = finished | {custom_id for custom_id, n_heard in parts.items() if n_heard == 2}
    assert not (folder / "out.jsonl").exists()
    again = _begin(folder, "after", 0, aggregator)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    resumed = f", {len(finished)} of them by an earlier run" if finished else ""
    assert f"{N_REQUESTS} requests{resumed}, 0 failed" in out
    kept = {f"r{i}" for i, text in enumerate(_texts(folder)) if text == "before"}
    assert parts
    assert whole <= kept <= finished | parts.keys()


@pytest.mark.slow
def test_interrupted_batch_says_how_to_go_on(folder: Path) -> None:
    process = _begin(folder, "before", 40.0, "first")
    try:
        _wait_for_lines(folder, process, 100)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "requests are done and kept. Run the same command again to go on" in err
    assert "Traceback" not in err
    again = _begin(folder, "after", 0, "first")
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert "before" in _texts(folder)
