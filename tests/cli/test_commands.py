"""The commands as a user types them: output, exit codes, one-line complaints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coe.cli import main
from coe.eval.datasets import save_outcomes
from coe.outcomes import OutcomeTable
from coe.types import Query

POOL = """
experts:
  - id: sums
    engine: {kind: scripted, answers: {'(\\d+) \\+ (\\d+)': 'the sum of \\1 and \\2'}, default: '?'}
  - id: places
    engine: {kind: scripted, default: Lima}
router: {scorer: SCORER, artifact: router, outcomes: outcomes.parquet}
"""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool of two scripted experts with outcomes to fit on."""
    asked = [(f"what is {i} plus {i + 3}", "maths") for i in range(12)]
    asked += [(f"capital of the country {name}", "places") for name in "abcdefghijkl"]
    queries = tuple(Query(text, str(i), category) for i, (text, category) in enumerate(asked))
    scores = np.array([[1.0, 0.0] if q.category == "maths" else [0.0, 1.0] for q in queries])
    save_outcomes(OutcomeTable(queries, ("sums", "places"), scores), tmp_path / "outcomes.parquet")
    file = tmp_path / "experts.yaml"
    file.write_text(POOL.replace("SCORER", "knn"), encoding="utf-8")
    return file


def _with_policy(policy: str) -> str:
    fitted = POOL.replace("SCORER", "knn")
    return fitted.replace("artifact: router", f"artifact: router, policy: {policy}")


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def fitted(pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    assert _run(monkeypatch, "fit", "-c", pool, "--split", "all") == 0
    assert "knn fitted on 24 queries" in capsys.readouterr().out
    return pool


def test_route_explains_its_choice(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "route", "-c", fitted, "the capital of that country") == 0
    out = capsys.readouterr().out
    assert "experts  places" in out
    assert "because" in out
    assert "most similar" in out


def test_route_prints_json(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "route", "-c", fitted, "--json", "what is 4 plus 5") == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["experts"] == ["sums"]
    assert set(decision["scores"]) == {"sums", "places"}


def test_ask_streams_and_says_who_answered(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "ask", "-c", fitted, "what is 4 + 5") == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == "the sum of 4 and 5"
    assert "sums (knn/top-1" in captured.err


def test_ask_can_pin_an_expert(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "ask", "-c", fitted, "--expert", "places", "what is 4 + 5") == 0
    assert capsys.readouterr().out.strip() == "Lima"
    assert _run(monkeypatch, "ask", "-c", fitted, "--expert", "place", "what is 4 + 5") == 2
    assert "did you mean 'places'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["route", "ask"])
def test_unfitted_router_says_what_to_do(
    pool: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, command, "-c", pool, "anything") == 2
    assert "coe fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("experts: [{id: a, engine: {kind: scripted}, max_token: 3}]", "did you mean 'max_tokens'"),
        (POOL.replace("SCORER", "knnn"), "router.scorer: unknown router 'knnn'"),
        (POOL.replace("SCORER", "knn") + "encoder: {kind: onnx}", "needs `model`"),
    ],
)
def test_wrong_file_ends_with_2_and_one_line(
    pool: Path,
    text: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool.write_text(text, encoding="utf-8")
    for command in (["route", "x"], ["ask", "x"], ["fit"], ["serve"]):
        assert _run(monkeypatch, command[0], "-c", pool, *command[1:]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{kind: top-q}", "router.policy: unknown policy 'top-q'"),
        ("{kind: top-p, options: {kmax: 3}}", "router.policy.options.kmax"),
        ("{kind: top-p, options: {p: high}}", "p is 'high'; give a float"),
        ("{kind: top-1, k: 3}", "use the kind 'top-k'"),
    ],
)
def test_wrong_policy_is_explained(
    fitted: Path,
    policy: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = _with_policy(policy)
    fitted.write_text(text, encoding="utf-8")
    assert _run(monkeypatch, "route", "-c", fitted, "x") == 2
    assert words in capsys.readouterr().err


def test_policy_options_reach_the_router(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = "{kind: top-p, options: {p: 0.99, k_max: 2}}"
    text = _with_policy(policy)
    fitted.write_text(text, encoding="utf-8")
    assert _run(monkeypatch, "route", "-c", fitted, "--json", "plus the country") == 0
    assert len(json.loads(capsys.readouterr().out)["experts"]) == 2


def test_serve_without_a_file_names_coe_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "serve", "-c", tmp_path / "none.yaml") == 2
    assert "coe init" in capsys.readouterr().err


def test_artifact_of_another_scorer_is_refused(
    fitted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted.write_text(POOL.replace("SCORER", "category"), encoding="utf-8")
    assert _run(monkeypatch, "route", "-c", fitted, "x") == 2
    assert "fitted with knn, used with category" in capsys.readouterr().err


def test_fit_never_writes_over_what_is_no_artifact(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = pool.read_text("utf-8")
    assert _run(monkeypatch, "fit", "-c", pool, "--split", "all", "--out", pool) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert pool.read_text("utf-8") == text


def test_init_writes_a_pool_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert _run(monkeypatch, "init", folder) == 0
    assert _run(monkeypatch, "route", "-c", folder / "experts.yaml", "What is 3 + 4?") == 0
    assert "experts  arithmetic" in capsys.readouterr().out


def test_init_replaces_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experts.yaml").write_text("mine", encoding="utf-8")
    assert _run(monkeypatch, "init", tmp_path) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "experts.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "zoo").exists()


def test_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from coe import __version__

    assert _run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
