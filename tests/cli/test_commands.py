"""The commands as a user types them: output, exit codes, one-line complaints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
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


def test_ask_needs_no_router_for_an_expert_that_is_named(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "ask", "-c", pool, "--expert", "sums", "what is 4 + 5") == 0
    captured = capsys.readouterr()
    assert captured.out == "the sum of 4 and 5\n"
    assert "— sums (pinned" in captured.err


def test_ask_ends_its_line_before_it_tells_a_failure_in_mid_answer(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = pool.read_text("utf-8").replace("default: Lima", "default: a b c, fail_after_tokens: 2")
    pool.write_text(text, encoding="utf-8")
    assert _run(monkeypatch, "ask", "-c", pool, "--expert", "places", "x") == 1
    captured = capsys.readouterr()
    assert captured.out == "a b\n"
    assert captured.err.startswith("coe: expert 'places': scripted to fail")


def test_ask_imports_no_torch_for_an_expert_that_needs_none(pool: Path) -> None:
    code = (
        "import sys; from coe.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'pyarrow'} & sys.modules.keys()))"
    )
    command = ["ask", "-c", str(pool), "--expert", "sums", "what is 4 + 5"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the sum of 4 and 5\n[]\n"


@pytest.mark.parametrize("command", ["route", "ask"])
def test_unfitted_router_says_what_to_do(
    pool: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, command, "-c", pool, "anything") == 2
    assert f"`coe fit -c {pool}`" in capsys.readouterr().err
    monkeypatch.chdir(pool.parent)
    assert _run(monkeypatch, command, "anything") == 2
    assert "`coe fit`" in capsys.readouterr().err


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


def test_serve_says_which_keys_are_missing_and_that_it_stops(tmp_path: Path) -> None:
    pool = tmp_path / "experts.yaml"
    pool.write_text(
        """
experts:
  - {id: told, engine: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: COE_TOLD}}
  - {id: mute, engine: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: COE_MUTE}}
router: {scorer: random}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "coe.cli", "serve", "-c", str(pool), "--port", "0"]
    env = {**os.environ, "COE_TOLD": "canary"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if "ready at" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    assert said[0].startswith("coe: random/top-1 over told, mute")
    assert said[1].startswith("coe: warning: expert 'mute' will fail")
    assert "COE_MUTE" in said[1]
    assert said[2].startswith("coe: ready at http://127.0.0.1:")
    assert said[3:] == ["coe: stopping\n"]


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
    complaint = capsys.readouterr().err
    assert "--force" in complaint
    assert "the fitted router too" in complaint.replace("\n", " ")
    assert (tmp_path / "experts.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "zoo").exists()


def test_init_says_that_force_replaced_the_zoo_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "init", tmp_path) == 0
    assert capsys.readouterr().out.startswith("wrote ")
    assert _run(monkeypatch, "init", tmp_path, "--force") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"replaced {tmp_path / 'experts.yaml'} and {tmp_path / 'zoo'} (")
    assert "fitted router" in out


def test_version_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from coe import __version__

    assert _run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
