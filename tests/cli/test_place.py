"""`coe place` and `coe analyze` as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from coe.cli import main

POOL = """
experts:
  - {id: a, engine: {kind: scripted, default: a}, footprint: {gib: 10, load_s: 5}}
  - {id: b, engine: {kind: scripted, default: b}, footprint: {gib: 10, load_s: 5}}
  - {id: c, engine: {kind: scripted, default: c}, footprint: {gib: 10, load_s: 5}}
devices: {gpu0: 20, gpu1: 10}
router: {scorer: random}
"""


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, encoding="utf-8")
    return file


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.jsonl"
    asked = "abababababcab" * 20
    lines = (json.dumps({"expert": e, "time": float(i)}) for i, e in enumerate(asked))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_experts_that_take_turns_are_placed_together_where_both_fit(
    pool: Path,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, "place", trace, "-c", pool, "--seconds", "0") == 0
    out = capsys.readouterr().out
    assert "0 s an hour go to swapping" in out
    kept = {line.split()[0]: line for line in out.splitlines() if line.startswith("gpu")}
    assert len(kept) == 2


def test_what_more_memory_saves_is_told(
    pool: Path,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, "analyze", trace, "-c", pool, "--segment", "26") == 0
    out = capsys.readouterr().out
    assert out.startswith("260 requests for 3 experts")
    rows = [line.split() for line in out.splitlines()]
    misses = [float(row[1].rstrip("%")) for row in rows if row and row[0] in ("10", "30")]
    assert misses[0] > 90.0
    assert misses[1] < 2.0


def test_a_pool_that_hosts_nobody_is_refused(
    tmp_path: Path,
    trace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "remote.yaml"
    file.write_text("experts: [{id: a, engine: {kind: scripted, default: a}}]", encoding="utf-8")
    assert _run(monkeypatch, "place", trace, "-c", file) == 2
    assert "hosts no expert" in capsys.readouterr().err


def test_a_wrong_line_of_a_trace_is_named(
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"expert": "a", "time": 1}\n{"expert": 3}\n', encoding="utf-8")
    assert _run(monkeypatch, "analyze", file, "-c", pool) == 2
    assert "line 2" in capsys.readouterr().err
