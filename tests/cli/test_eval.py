"""`coe eval` as a user types it: recorded benchmarks, leaderboards, and the live zoo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.cli import main
from coe.cli.progress import progress_bar
from coe.eval.datasets import save_outcomes
from coe.outcomes import OutcomeTable
from coe.types import Query

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 40


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _write(folder: Path, **tables: dict[str, list[Any]]) -> Path:
    for name, columns in tables.items():
        parquet.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """Law is known to the lawyer and the big expert, maths to the big one alone."""
    ids = list(range(2 * N))
    about = ["law" if i % 2 else "math" for i in ids]
    models = ("lawyer", "big", "other")
    right = {"lawyer": ["law"], "big": ["law", "math"], "other": []}
    pairs = [(i, model) for i in ids for model in models]
    correct = [about[i] in right[model] for i, model in pairs]
    return _write(
        tmp_path,
        questions={
            "question_id": ids,
            "category": about,
            "question": [f"a question of {about[i]} number {i}" for i in ids],
            "split": ["train" if i < N else "test" for i in ids],
        },
        models={
            "model": list(models),
            "complete": [True] * 3,
            "small_pool": [True, False, True],
            "params_active_b": [1.0, 10.0, 2.0],
        },
        outcomes={
            "question_id": [i for i, _ in pairs],
            "model": [model for _, model in pairs],
            "pred": ["A" if yes else "B" for yes in correct],
            "correct": correct,
        },
    )


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    """The same as scores of one split each, without answers."""
    ids = list(range(2 * N))
    about = ["law" if i % 2 else "math" for i in ids]
    pairs = [(i, model) for i in ids for model in ("lawyer", "big")]
    return _write(
        tmp_path,
        questions={
            "query_id": ids,
            "task": about,
            "query": [f"a question of {about[i]} number {i}" for i in ids],
            "split": ["train" if i < N else "test" for i in ids],
        },
        models={
            "model": ["lawyer", "big"],
            "params_active_b": [1.0, 10.0],
            "params_total_b": [1.0, 10.0],
            "open_weights": [True, False],
        },
        outcomes={
            "query_id": [i for i, _ in pairs],
            "model": [model for _, model in pairs],
            "score": [0.5 if m == "big" else float(about[i] == "law") for i, m in pairs],
        },
    )


def _rows(file: Path) -> dict[str, Any]:
    report = json.loads(file.read_text("utf-8"))
    return {f"{row['router']}/{row['policy']}": row for row in report["rows"]}


def test_policies_of_every_kind_are_judged(
    mmlu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = (
        "top-1",
        "top-3",
        "fallback:k=3",
        "vote:k=3",
        "adaptive-vote:k=3:calls=2",
        "priced-vote:cost=params_active_b:budget=8",
        "top-1:cost=params_active_b:budget=6",
        "cascade:cost=params_active_b",
        "recruit:k=2",
    )
    out = mmlu / "rows.json"
    arguments = ("--router", "category", "--policy", ",".join(policies), "--json", out)
    code = _run(monkeypatch, "eval", "mmlu-pro", "--data", mmlu, *arguments)
    printed = capsys.readouterr()
    assert code == 0
    assert printed.err == ""
    rows = _rows(out)
    assert rows["best-single/reference"]["accuracy"] == 1.0
    assert rows["category/top-1"]["accuracy"] == 1.0
    assert rows["category/top-3"]["calls"] == 3.0
    assert rows["category/adaptive-vote:k=3:calls=2"]["calls"] <= 2.0
    priced = rows["category/top-1:cost=params_active_b:budget=6"]
    assert priced["active_params_b"] == 5.5
    assert priced["accuracy"] == 1.0
    assert "multiplier=" in priced["tuned"]
    lines = [line.split() for line in printed.out.splitlines()]
    shown = [words[1] for words in lines if words[:1] == ["category"]]
    assert shown == [policy.split(":")[0] for policy in policies]


def test_learned_vote_is_judged(
    mmlu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = mmlu / "rows.json"
    arguments = ("--router", "category", "--policy", "top-3", "--json", out)
    assert _run(monkeypatch, "eval", "mmlu-pro", "--data", mmlu, *arguments) == 0
    assert _rows(out)["category/top-3"]["accuracy"] == 0.5
    learned = (*arguments, "--aggregator", "learned")
    assert _run(monkeypatch, "eval", "mmlu-pro", "--data", mmlu, *learned) == 0
    assert "several answers: learned" in capsys.readouterr().out
    row = _rows(out)["category/top-3"]
    assert (row["accuracy"], row["aggregator"], row["is_calibrated"]) == (1.0, "learned", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--router", "categry"), "unknown router 'categry'"),
        (("--policy", "top-q"), "unknown policy 'top-q'"),
        (("--policy", "vote:kk=3"), "has no option 'kk'"),
        (("--aggregator", "learnt"), "did you mean 'learned'?"),
        (("--pool", "lawyr"), "did you mean 'lawyer'?"),
        (("--plot", "x.png"), "add that option"),
        (("--cost", "params_active_b"), "--cost is that of --leaderboard"),
        (("--aggregator", "chain"), "shows answers to experts again"),
        (("--text", "options"), "is none of 'question'"),
        (("--leaderboard", "--plot", "x.gif"), "end it in .png"),
        (("--leaderboard", "--cost", "params"), "unknown cost 'params'"),
        (("--leaderboard", "--policy", "top-1"), "so --policy says nothing"),
        (("--leaderboard", "--aggregator", "learned"), "so --aggregator says nothing"),
    ],
)
def test_wrong_options_are_explained_in_a_line(
    mmlu: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, "eval", "mmlu-pro", "--data", mmlu, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_leaderboard_compares_pools_with_the_category_given_and_hidden(
    mmlu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = mmlu / "board.json", mmlu / "curves.svg"
    pytest.importorskip("matplotlib")
    arguments = ("--leaderboard", "--router", "category,linear", "--json", out, "--plot", picture)
    code = _run(monkeypatch, "eval", "mmlu-pro", "--data", mmlu, *arguments)
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    boards = json.loads(out.read_text("utf-8"))["boards"]
    # "open" has the same experts as "all", so it is not judged again.
    assert [(board["pool"], board["category"]) for board in boards] == [
        ("all", "given"),
        ("all", "hidden"),
        ("small", "given"),
        ("small", "hidden"),
    ]
    curves = {each["router"]: each for each in boards[0]["tradeoffs"]}
    # Law to the lawyer and maths to the big expert is as good as the big one for both.
    assert curves["category"]["equal_quality_cost"] == pytest.approx(5.5 / 10)
    assert curves["mix of experts"]["apgr"] == pytest.approx(0.5)
    assert picture.read_text("utf-8").lstrip().startswith("<?xml")
    assert "pool all (3), category given" in printed.out
    assert "APGR" in printed.out


def test_leaderboard_takes_pools_and_lists_of_experts(
    mmlu: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("eval", "mmlu-pro", "--data", mmlu, "--leaderboard", "--router", "category")
    assert _run(monkeypatch, *common, "--pool", "small", "--hide-category") == 0
    out = capsys.readouterr().out
    assert "pool small (2), category hidden" in out
    assert "given" not in out
    assert _run(monkeypatch, *common, "--pool", "big,lawyer") == 0
    assert "pool big,lawyer (2), category given" in capsys.readouterr().out


def test_scores_without_answers_serve_one_expert_a_query(
    mix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = mix / "rows.json"
    common = ("eval", "llmrouter-mix", "--data", mix, "--router", "category", "--json", out)
    policies = "top-1,top-1:cost=params_active_b:budget=6"
    assert _run(monkeypatch, *common, "--policy", policies) == 0
    assert _rows(out)["category/top-1"]["accuracy"] == 0.75
    capsys.readouterr()
    for policy in ("top-2", "fallback"):
        assert _run(monkeypatch, *common, "--policy", policy) == 2
        assert "only scores were recorded" in capsys.readouterr().err
    assert _run(monkeypatch, *common, "--leaderboard") == 0
    assert "pool all (2), category given" in capsys.readouterr().out


def test_bar_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("working", 2) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


_ZOO = """
experts:
  - id: sums
    engine: {kind: scripted, default: '4'}
  - id: places
    engine: {kind: scripted, default: Lima}
EXTRA
router: {scorer: category, artifact: router, outcomes: outcomes.parquet}
"""


def _zoo(folder: Path, extra: str) -> Path:
    """A pool whose recorded outcomes know only its first two experts."""
    queries = tuple(Query(f"question {i}", str(i), "law") for i in range(4))
    table = OutcomeTable(queries, ("sums", "places"), np.ones((4, 2)))
    save_outcomes(table, folder / "outcomes.parquet", "train")
    file = folder / "experts.yaml"
    file.write_text(_ZOO.replace("EXTRA", extra), encoding="utf-8")
    return file


def test_expert_without_recorded_outcomes_is_told_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _zoo(tmp_path, "  - id: new\n    engine: {kind: scripted, default: x}")
    assert _run(monkeypatch, "eval", "zoo", "-c", file) == 2
    error = capsys.readouterr().err
    assert "holds no answers of expert 'new'" in error
    assert f"coe eval zoo -c {file} --split all --record" in error


def test_expert_that_is_down_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens on the discard port, and the test does not wait for long that it will."""
    dead = "  - id: dead\n    engine: {kind: openai, base_url: 'http://127.0.0.1:9/v1'}"
    file = _zoo(tmp_path, dead)
    out = tmp_path / "rows.json"
    arguments = ("--split", "all", "--router", "knn", "--ready-timeout", "0.2", "--json", out)
    assert _run(monkeypatch, "eval", "zoo", "-c", file, *arguments) == 0
    printed = capsys.readouterr()
    assert "left out: expert 'dead'" in printed.err
    assert "answers failed, the first: expert 'dead'" in printed.out
    report = json.loads(out.read_text("utf-8"))
    assert set(report["rows"][0]["shares"]) == {"sums", "places"}
    assert report["fields"]["experts"]["dead"] == [None] * len(report["fields"]["names"])
    assert {failure["experts"][0] for failure in report["failures"]} == {"dead"}
