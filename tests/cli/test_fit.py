"""`coe fit` as a user types it: what it fits on, what it refuses to make worse, what it tells."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from coe.assembly import load_composition, load_router
from coe.cli import main
from coe.config import load_config
from coe.eval.datasets import save_outcomes
from coe.feedback_log import FeedbackLog
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.service.app import create_app
from coe.types import Query

POOL = """
experts:
  - id: sums
    engine: {kind: scripted, default: '4'}
  - id: places
    engine: {kind: scripted, default: Lima}
  - id: plants
    engine: {kind: scripted, default: a fern}
router: {scorer: knn, artifact: router, outcomes: outcomes.parquet, feedback: feedback.jsonl}
"""
SUMS, PLACES, PLANTS = (
    [f"{text} {i}" for i in range(20)]
    for text in ("add the numbers", "capital of the country", "flower of the garden plant")
)


def _save(file: Path, *fields: tuple[list[str], tuple[float, float, float]]) -> None:
    """Outcomes where every query of a field has the same."""
    asked = [(text, row) for texts, row in fields for text in texts]
    queries = tuple(Query(text, str(i)) for i, (text, _) in enumerate(asked))
    scores = np.array([row for _, row in asked])
    save_outcomes(OutcomeTable(queries, ("sums", "places", "plants"), scores), file)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Three experts, the last of which is recorded as bad at everything, plants too."""
    _save(
        tmp_path / "outcomes.parquet",
        (SUMS, (1.0, 0.0, 0.0)),
        (PLACES, (0.0, 1.0, 0.0)),
        (PLANTS, (0.25, 0.0, 0.0)),
    )
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, encoding="utf-8")
    return file


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", "fit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _fitted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pool: Path,
    *arguments: str | Path,
) -> str:
    """What the command printed."""
    assert _run(monkeypatch, "-c", pool, "--split", "all", *arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # not a terminal
    return captured.out


def _guard(pool: Path) -> object:
    manifest = json.loads((pool.parent / "router" / "manifest.json").read_text("utf-8"))
    return manifest["guard"]


def _rate(pool: Path, texts: list[str], model: str, thumb: str) -> None:
    """Asks over HTTP and says what it thinks of the answers."""
    config = load_config(pool)
    assert config.router.feedback is not None
    app = create_app(load_composition(config), feedback=FeedbackLog(config.router.feedback))
    with TestClient(app) as client:
        for text in texts:
            said = {"model": model, "messages": [{"role": "user", "content": text}]}
            answer = client.post("/v1/chat/completions", json=said)
            told = {"decision_id": answer.headers["x-coe-decision-id"], "thumb": thumb}
            assert client.post("/v1/feedback", json=told).status_code == 200


def test_feedback_corrects_what_was_recorded_wrongly(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(monkeypatch, capsys, pool)
    query = "a flower for the garden, which plant?"
    assert load_router(pool).route(query).experts == ("sums",)
    # The router's own answers are bad, and those that were asked for by name are good.
    _rate(pool, PLANTS[:10], "coe", "down")
    _rate(pool, [f"garden plant with flower {i}" for i in range(20)], "plants", "up")

    out = _fitted(monkeypatch, capsys, pool, "--from-feedback")
    assert "knn fitted on 90 queries" in out
    assert "feedback: 30 ratings of 30 queries" in out
    assert "guard: on 60 held-out queries routing beats sums alone" in out
    rated = next(line for line in out.splitlines() if "the rated queries" in line)
    assert re.search(r": 0\.0% \(on 10 of 30\) without feedback, 100\.0% \(on .* with it$", rated)
    router = load_router(pool)
    assert router.route(query).experts == ("plants",)
    assert router.route(SUMS[0]).experts == ("sums",)
    assert router.route(PLACES[0]).experts == ("places",)


def test_feedback_alone_can_be_fitted_on(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(monkeypatch, capsys, pool)
    _rate(pool, PLANTS[:5], "plants", "up")
    _rate(pool, SUMS[:5], "plants", "down")
    _rate(pool, SUMS[5:10], "sums", "up")
    _rate(pool, PLANTS[5:10], "sums", "down")
    pool.write_text(POOL.replace(" outcomes: outcomes.parquet,", ""), encoding="utf-8")
    out = _fitted(monkeypatch, capsys, pool, "--from-feedback")
    assert "knn fitted on 20 queries of" in out
    assert "guard: not checked" in out
    assert "never measured: places" in out
    assert load_router(pool).route(PLANTS[12]).experts == ("plants",)
    assert load_router(pool).route(SUMS[12]).experts == ("sums",)


def test_expert_that_joined_the_pool_later_is_learned_from_feedback(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(monkeypatch, capsys, pool)
    _rate(pool, [f"garden plant with flower {i}" for i in range(20)], "plants", "up")
    queries = tuple(Query(text, str(i)) for i, text in enumerate(SUMS + PLACES))
    scores = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    save_outcomes(
        OutcomeTable(queries, ("sums", "places"), scores), pool.parent / "outcomes.parquet"
    )
    assert _run(monkeypatch, "-c", pool, "--split", "all") == 2
    assert "no answers of expert 'plants'" in capsys.readouterr().err
    assert "fitted on 60 queries" in _fitted(monkeypatch, capsys, pool, "--from-feedback")
    assert load_router(pool).route(PLANTS[0]).experts == ("plants",)
    assert load_router(pool).route(SUMS[0]).experts == ("sums",)


def test_feedback_file_can_be_named(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(monkeypatch, capsys, pool)
    _rate(pool, PLANTS[:3], "coe", "down")
    moved = (pool.parent / "feedback.jsonl").rename(pool.parent / "moved.jsonl")
    assert "3 ratings" in _fitted(monkeypatch, capsys, pool, "--feedback", moved)
    assert _run(monkeypatch, "-c", pool, "--split", "all", "--from-feedback") == 2
    assert "no feedback can be read" in capsys.readouterr().err


def test_feedback_that_is_not_configured_says_where_to(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.write_text(POOL.replace(", feedback: feedback.jsonl", ""), encoding="utf-8")
    assert _run(monkeypatch, "-c", pool, "--from-feedback") == 2
    error = capsys.readouterr().err
    assert "--feedback FILE" in error
    assert str(pool) in error


def test_ratings_of_experts_that_left_are_left_out(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(monkeypatch, capsys, pool)
    _rate(pool, PLANTS[:3], "plants", "up")
    text = POOL.replace("  - id: plants\n    engine: {kind: scripted, default: a fern}\n", "")
    pool.write_text(text, encoding="utf-8")
    out = _fitted(monkeypatch, capsys, pool, "--from-feedback")
    assert "3 ratings of experts that the pool lacks are left out" in out
    assert "fitted on 60 queries" in out


def test_router_that_beats_the_best_single_expert_is_used(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _fitted(monkeypatch, capsys, pool)
    assert "guard: on 60 held-out queries routing beats sums alone (+33.3%)" in out
    router = load_router(pool)
    assert router.name == "knn/top-1"
    assert router.route(PLACES[0]).experts == ("places",)


@pytest.fixture
def hopeless(pool: Path) -> Path:
    """What an expert is right about has nothing to do with the text; sums is best."""
    rng = np.random.default_rng(0)
    texts = SUMS + PLACES + PLANTS
    rows = [(float(rng.random() < 0.8), float(rng.random() < 0.3), 0.0) for _ in texts]
    _save(
        pool.parent / "outcomes.parquet",
        *(([text], row) for text, row in zip(texts, rows, strict=True)),
    )
    return pool


def test_router_that_does_not_help_gives_way_to_the_best_single_expert(
    hopeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _fitted(monkeypatch, capsys, hopeless)
    assert "does not surely beat sums alone" in out
    assert "by their overall record, sums first (--no-guard" in out
    router = load_router(hopeless)
    assert router.name == "best-single/top-1"
    decisions = router.route_batch(SUMS + PLACES + PLANTS)
    assert {decision.experts for decision in decisions} == {("sums",)}
    assert "ranked by their overall record" in router.route(PLACES[0]).reasons[0]


def test_no_guard_uses_the_router_all_the_same(
    hopeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _fitted(monkeypatch, capsys, hopeless, "--no-guard")
    assert "guard: not asked for" in out
    assert _guard(hopeless) is None
    assert load_router(hopeless).name == "knn/top-1"


def test_too_few_queries_are_said_to_be_too_few(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(pool.parent / "outcomes.parquet", (SUMS, (1.0, 0.0, 0.0)), (PLACES, (0.0, 1.0, 0.0)))
    out = _fitted(monkeypatch, capsys, pool)
    assert "guard: not checked; that takes 50 queries" in out
    assert "there are 40" in out
    assert _guard(pool) is None


def test_best_single_needs_no_guard(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _fitted(monkeypatch, capsys, pool, "--scorer", "best-single")
    assert "guard" not in out
    assert _guard(pool) is None


def test_only_short_settings_are_printed(
    pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _fitted(monkeypatch, capsys, pool, "--scorer", "ensemble")
    settings = Artifact.load(pool.parent / "router").manifest.settings
    assert "members" in settings
    assert "members" not in out
    assert "  calibration = platt\n" in out
    assert max(map(len, out.splitlines())) < 200 + len(str(pool.parent))
