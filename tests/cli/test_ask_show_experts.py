"""`coe ask --show-experts`: what is printed, and for whom it is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coe.cli import main
from coe.cli.inner_experts import table
from coe.engines.routed_experts import RoutedExperts, Traced
from coe.eval.datasets import save_outcomes
from coe.outcomes import OutcomeTable
from coe.types import Query, Usage

POOL = """
experts:
  - id: sparse
    engine: {{kind: local, path: {weights}/generalist}}
    context_tokens: 256
    max_tokens: 48
  - id: dense
    engine: {{kind: local, path: {weights}/geography}}
    context_tokens: 256
    max_tokens: 48
  - {{id: far, engine: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}}}}
router: {{scorer: knn, artifact: router, outcomes: outcomes.parquet, policy: {policy}}}
"""
QUESTION = "What is the capital of France?"


@pytest.fixture
def pool(tmp_path: Path, repository: Path) -> Path:
    return _written(tmp_path, repository, "{kind: top-1}")


def _written(folder: Path, repository: Path, policy: str) -> Path:
    file = folder / "experts.yaml"
    weights = repository / "coe" / "zoo" / "weights"
    file.write_text(POOL.format(weights=weights, policy=policy), encoding="utf-8")
    return file


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_answer_is_followed_by_a_row_for_each_layer(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("ask", "-c", pool, "--expert", "sparse", QUESTION)
    assert _run(monkeypatch, *command) == 0
    plain = capsys.readouterr()
    assert _run(monkeypatch, *command, "--show-experts") == 0
    shown = capsys.readouterr()
    answer, empty, headline, _, *rows = shown.out.splitlines()
    assert (answer, empty) == (plain.out.strip(), "")
    assert headline == "inner experts of sparse: 3 layers of 8, 2 for each token"
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert shown.err == plain.err


def test_json_has_the_counts_of_prompt_and_answer(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("ask", "-c", pool, "--expert", "sparse", QUESTION, "--show-experts", "--json")
    assert _run(monkeypatch, *command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["expert"], told["n_experts"], told["top_k"]) == ("sparse", 8, 2)
    assert told["n_passes"]["completion"] == told["completion_tokens"]
    assert told["n_passes"]["prompt"] == told["prompt_tokens"] - 1
    for part, n_passes in told["n_passes"].items():
        assert [sum(row) for row in told["counts"][part]] == [2 * n_passes] * 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--expert", "dense", "--show-experts"), "'dense' has no inner experts"),
        (("--expert", "far", "--show-experts"), "only experts that CoE runs itself"),
        (("--expert", "sparse", "--json"), "--json goes with --show-experts"),
        (("--show-experts",), "`coe fit"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    pool: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, "ask", "-c", pool, QUESTION, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


def test_a_routed_question_is_traced_unless_several_experts_answer_it(
    pool: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queries = tuple(Query(f"what is {i} plus {i + 3}", str(i)) for i in range(12))
    scores = np.tile([1.0, 0.5, 0.0], (12, 1))
    outcomes = OutcomeTable(queries, ("sparse", "dense", "far"), scores)
    save_outcomes(outcomes, pool.parent / "outcomes.parquet")
    assert _run(monkeypatch, "fit", "-c", pool, "--split", "all") == 0
    capsys.readouterr()
    assert _run(monkeypatch, "ask", "-c", pool, "--show-experts", "what is 4 plus 7") == 0
    captured = capsys.readouterr()
    assert "inner experts of sparse" in captured.out
    assert captured.err.startswith("— sparse (knn/top-1")
    _written(pool.parent, repository, "{kind: top-k, k: 2}")
    assert _run(monkeypatch, "ask", "-c", pool, "--show-experts", "what is 4 plus 7") == 2
    assert "recruits sparse, dense" in capsys.readouterr().err


def test_the_table_of_a_large_model_shows_the_top_experts_in_80_columns() -> None:
    chosen = np.tile(np.arange(128 - 8, 128), (50, 48, 1))
    chosen[:10, 0, 7] = 5
    lines = table("big", Traced("", Usage(11, 40), RoutedExperts(chosen), 128)).splitlines()
    assert lines[0] == "inner experts of big: 48 layers of 128, 8 for each token"
    assert lines[1].split("  ")[0] == "layer"
    assert len(lines) == 2 + 48
    assert max(map(len, lines)) <= 80
    # In the first layer the ten passes of the prompt went to 5 and not to 127.
    answer, prompt = "120 100% 121 100% 122 100% 123 100%", "5 100% 120 100% 121 100% 122 100%"
    assert " ".join(lines[2].split()) == f"0 {answer} {prompt}"
    assert " ".join(lines[3].split()) == f"1 {answer} {answer}"


def test_the_table_s_shares_are_of_tokens_the_most_frequent_first() -> None:
    chosen = np.array([[[2, 1]], [[0, 1]], [[2, 1]], [[2, 1]], [[0, 1]]])
    lines = table("x", Traced("", Usage(2, 4), RoutedExperts(chosen), 3)).splitlines()
    assert lines[1].split("  ")[1] == "answer, share of 4 tokens"
    assert " ".join(lines[2].split()) == "0 1 100% 0 50% 2 50% 1 100% 2 100%"
