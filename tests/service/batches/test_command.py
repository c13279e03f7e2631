"""`coe batch` as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from coe.cli import main
from coe.service.batches.lines import URL

POOL = """
experts:
  - id: well
    engine: {kind: scripted, default: fine}
  - id: ill
    engine: {kind: scripted, default: fine, fail_after_tokens: 0}
router: {scorer: random}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experts.yaml").write_text(POOL, encoding="utf-8")
    lines = []
    for model in ("well", "ill"):
        body = {"model": model, "messages": [{"role": "user", "content": "how are you?"}]}
        lines.append({"custom_id": model, "method": "POST", "url": URL, "body": body})
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return tmp_path


def _batch(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> int:
    files = ["-c", str(folder / "experts.yaml"), str(folder / "in.jsonl"), str(folder / "out")]
    monkeypatch.setattr(sys, "argv", ["coe", "batch", *files, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _statuses(folder: Path) -> list[int]:
    lines = (folder / "out").read_bytes().splitlines()
    return [orjson.loads(line)["response"]["status_code"] for line in lines]


def test_failed_requests_are_told_and_can_be_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _batch(monkeypatch, folder) == 1
    assert _statuses(folder) == [200, 502]
    assert "2 requests, 1 failed" in capsys.readouterr().out
    pool = folder / "experts.yaml"
    pool.write_text(POOL.replace(", fail_after_tokens: 0", ""), encoding="utf-8")
    assert _batch(monkeypatch, folder) == 2
    assert "--retry-failed" in capsys.readouterr().err
    assert _batch(monkeypatch, folder, "--retry-failed") == 0
    assert _statuses(folder) == [200, 200]
    assert "2 requests, 1 of them by an earlier run, 0 failed" in capsys.readouterr().out
