"""Live benchmarks as a user types them, and what a run is good for afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coe.cli import main

pytest.importorskip("pyarrow")

N = 60
POOL = """
experts:
  - {id: lawyer, engine: {kind: scripted, answers: {law: "The answer is (A)."}, default: "(B)?"}}
  - {id: doctor, engine: {kind: scripted, answers: {health: "The answer is (A)."}, default: "hm"}}
router: {scorer: SCORER, artifact: router}
"""


def _coe(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    file = tmp_path / "experts.yaml"
    file.write_text(POOL.replace("SCORER", "knn"), "utf-8")
    return file


def _questions(folder: Path, split: str, first: int = 0) -> Path:
    rows = [
        {
            "question_id": first + i,
            "question": f"a matter of {'law' if i % 2 else 'health'}, number {first + i}",
            "options": ["right", "wrong"],
            "answer": "A",
            "category": "law" if i % 2 else "health",
        }
        for i in range(N)
    ]
    file = folder / f"mmlu_pro_{split}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return file


def test_live_run_becomes_the_router_that_the_next_run_routes_with(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pool.parent
    _questions(folder, "train")
    _questions(folder, "test", first=1_000)
    live = ("eval", "mmlu-pro", "--live", "--data", folder, "-c", pool)
    train = ("--split", "train", "--ask", "all", "--run", folder / "train")
    assert _coe(monkeypatch, *live, *train) == 0
    printed = capsys.readouterr().out
    assert "lawyer" in printed
    assert "headroom: the oracle leads" in printed
    assert _coe(monkeypatch, "fit", "-c", pool, "--from-run", folder / "train") == 0
    assert "guard: on 60 held-out queries routing beats" in capsys.readouterr().out
    out = folder / "summary.json"
    test = ("--run", folder / "test", "--json", out)
    assert _coe(monkeypatch, *live, *test) == 0
    standings = json.loads(out.read_text("utf-8"))["standings"]
    routed = next(each for each in standings if each["name"] == "")
    assert (routed["accuracy"], routed["n"], routed["n_unreadable"]) == (1.0, N, 0)
    again = _coe(monkeypatch, "eval", "compare", folder / "train", folder / "test")
    assert again == 2
    assert "no question in common" in capsys.readouterr().err


def test_live_options_without_questions_or_with_a_wrong_name_are_told(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _coe(monkeypatch, "eval", "mmlu-pro", "-c", pool) == 2
    assert "or ask with --live" in capsys.readouterr().err
    assert _coe(monkeypatch, "eval", "mmlu-pro", "--live", "-c", pool) == 2
    assert "--hub TIGER-Lab/MMLU-Pro" in capsys.readouterr().err
    data = _questions(pool.parent, "test")
    wrong = ("eval", "custom", "--scorer", "exactly", "--data", data, "-c", pool)
    assert _coe(monkeypatch, *wrong) == 2
    assert "did you mean 'exact'" in capsys.readouterr().err
    judge = ("eval", "arena-hard", "--data", data, "-c", pool, "--ask", "all")
    assert _coe(monkeypatch, *judge) == 2
    assert "arena-hard needs a judge" in capsys.readouterr().err
    assert not list(pool.parent.glob("runs/*"))


def test_fit_from_a_run_that_is_none_is_told(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _coe(monkeypatch, "fit", "-c", pool, "--from-run", pool.parent / "nowhere") == 2
    assert "is no run" in capsys.readouterr().err
    both = ("--from-run", pool.parent, "--outcomes", pool)
    assert _coe(monkeypatch, "fit", "-c", pool, *both) == 2
    assert "leave one out" in capsys.readouterr().err


def test_custom_questions_are_checked_by_their_own_programs(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pool.parent
    checks = ["assert answer == 'a'", "assert 'B' in completion", "raise ValueError"]
    rows = [{"id": f"q{i}", "question": "law?", "check": check} for i, check in enumerate(checks)]
    data = folder / "mine.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    run = folder / "run"
    arguments = ("--scorer", "python", "--data", data, "-c", pool, "--ask", "all", "--run", run)
    assert _coe(monkeypatch, "eval", "custom", *arguments) == 0
    capsys.readouterr()
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text("utf-8").splitlines()]
    lawyer = [(r["score"], r["level"]) for r in lines if r["expert"] == "lawyer"]
    assert lawyer == [(1.0, "passed"), (0.0, "failed"), (0.0, "failed")]


FAKE = """
experts:
{experts}
router: {{scorer: random, policy: {{kind: top-k, k: 3}}, aggregator: {{kind: llm, expert: e0}}}}
devices: {{gpu0: 2}}
"""


def _fake_expert(i: int) -> str:
    command = json.dumps([sys.executable, "-m", "coe.engines.fake_vllm"])
    flags = json.dumps({"fake-answer": f"The answer is ({'AB'[i % 2]})."})
    return (
        f"  - {{id: e{i}, engine: {{kind: vllm, model: m{i}, canary_tokens: 0, command: {command}, "
        f"flags: {flags}}}, footprint: {{gib: 1}}, max_tokens: 16}}"
    )


@pytest.mark.slow
def test_live_run_of_real_servers_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    pool = tmp_path / "fake.yaml"
    pool.write_text(FAKE.format(experts="\n".join(map(_fake_expert, range(5)))), "utf-8")
    data = _questions(tmp_path, "test")
    command = [sys.executable, "-m", "coe.cli", "eval", "mmlu-pro", "--live"]
    command += ["--data", str(data), "-c", str(pool), "--run"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    size = (whole / "answers.jsonl").stat().st_size
    for share in (0.0, 0.1, 0.4, 0.7, 0.9):
        _killed_at([*command, str(broken)], broken / "answers.jsonl", int(share * size))
    subprocess.run([*command, str(broken)], check=True, capture_output=True)
    assert (broken / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    summary = json.loads((whole / "summary.json").read_text("utf-8"))
    assert summary["swaps"] == 5
    rows = _lines(broken / "results.jsonl")
    assert len({(r["query_id"], r["stage"], r["expert"]) for r in rows}) == len(rows) == 5 * N


def _killed_at(command: list[str], journal: Path, size: int) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.stat().st_size >= size):
        time.sleep(0.005)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_zoo_run_that_is_gone_on_with_prints_the_same(
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    zoo = ("eval", "zoo", "-c", repository / "experts.yaml", "--run", run)
    assert _coe(monkeypatch, *zoo) == 0
    first = capsys.readouterr().out
    journal = run / "answers.jsonl"
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size * 9 // 10])
    results = (run / "results.jsonl").read_bytes()
    assert _coe(monkeypatch, *zoo) == 0
    assert capsys.readouterr().out == first
    assert (run / "results.jsonl").read_bytes() == results
