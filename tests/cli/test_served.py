"""The router that a configuration serves, judged as `coe fit` left it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.assembly import Fitting, load_router
from coe.cli import main
from coe.cli.served import ServedRouter
from coe.config import Config, load_config
from coe.eval.datasets import load_outcomes, save_outcomes
from coe.eval.recorded import RecordedBenchmark
from coe.outcomes import FloatArray, OutcomeTable
from coe.routers.calibrated import CalibratedScorer
from coe.routers.calibration import Calibration
from coe.routers.policies import PolicySpec
from coe.routers.policies.guard import JudgedScorer
from coe.routing import Router
from coe.types import Query

pytest.importorskip("pyarrow")

_POOL = """
experts:
  - id: sums
    engine: {kind: scripted, default: '4', answers: {Do not solve: 'Keywords: KEYWORDS'}}
    params_active_b: 1
  - id: places
    engine: {kind: scripted, default: Lima}
    params_active_b: 8
router:
  artifact: router
  outcomes: outcomes.parquet
  ROUTER
"""
_TOPICS = ("add the numbers", "capital of the country")


def _table(prefix: str, n: int, knows: float) -> OutcomeTable:
    """Even queries are sums; each expert is right on its own with probability `knows`."""
    rng = np.random.default_rng(len(prefix))
    own = np.eye(2, dtype=bool)[np.arange(n) % 2]
    won = np.where(own, rng.random((n, 2)) < knows, rng.random((n, 2)) < 1 - knows)
    queries = tuple(Query(f"{prefix}: {_TOPICS[i % 2]} {i}", f"{prefix}{i}") for i in range(n))
    answers = tuple(tuple("A" if w else f"wrong {e}" for e, w in enumerate(row)) for row in won)
    return OutcomeTable(queries, ("sums", "places"), won.astype(float), answers)


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["coe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _pool(folder: Path, router: str, knows: float = 0.9) -> Path:
    save_outcomes(_table("train", 120, knows), folder / "outcomes.parquet", "train")
    file = folder / "experts.yaml"
    text = _POOL.replace("ROUTER", router.replace("\n", "\n  ")).replace("KEYWORDS", "law, art")
    file.write_text(text, encoding="utf-8")
    return file


def _fitted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, router: str, *arguments: str, knows: float = 0.9
) -> Path:
    """A configuration, and the artifact that `coe fit` saved for it."""
    file = _pool(folder, router, knows)
    assert _run(monkeypatch, "fit", "-c", file, *arguments) == 0
    return file


def _entered(file: Path) -> tuple[Config, Router, ServedRouter]:
    config = load_config(file)
    router = load_router(config)
    benchmark = RecordedBenchmark(_table("test", 40, 0.9), config.pool)
    assert config.router.outcomes is not None
    fitted_on = load_outcomes(config.router.outcomes, "train")
    return config, router, ServedRouter(config, router, benchmark, fitted_on)


def _shares(router: Router, queries: tuple[Query, ...]) -> dict[str, float]:
    chosen = [id_ for each in router.route_batch(queries) for id_ in each.experts]
    return {id_: chosen.count(id_) / len(chosen) for id_ in router.pool.ids}


_BUDGET = "policy: {kind: top-1, options: {cost: params_active_b, budget: 4.0}}"


def test_calibrated_scores_are_not_calibrated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _fitted(monkeypatch, tmp_path, "scorer: knn\naggregator: weighted")
    _, router, entered = _entered(file)
    assert isinstance(router.scorer, JudgedScorer)
    calibrated = router.scorer.scorer
    assert isinstance(calibrated, CalibratedScorer)
    queries = entered.benchmark.table.queries
    chances = entered.entrant.chances()
    np.testing.assert_array_equal(chances.judged, router.scorer.score(queries))
    np.testing.assert_array_equal(entered.entrant.scores, calibrated.scorer.score(queries))
    assert not np.allclose(chances.judged, entered.entrant.scores)
    assert chances.fitted_on.shape == (120, 2)


def test_what_was_recorded_since_changes_nothing_that_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _fitted(monkeypatch, tmp_path, f"scorer: knn\n{_BUDGET}")
    spec = PolicySpec.parsed("top-1:cost=params_active_b:budget=4.0")
    before = _entered(file)[2].judge(spec, "majority")
    save_outcomes(_table("since", 90, 0.6), tmp_path / "outcomes.parquet", "train")
    _, router, entered = _entered(file)
    judged = entered.judge(spec, "majority")
    assert judged.tuned == before.tuned
    queries = entered.benchmark.table.queries
    assert judged.per_query.shares == _shares(router, queries)
    np.testing.assert_array_equal(entered.entrant.chances().judged, router.scorer.score(queries))


def test_scores_that_are_served_as_they_are_are_calibrated_for_policies_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, router, entered = _entered(_fitted(monkeypatch, tmp_path, "scorer: knn"))
    scores = router.scorer.score(entered.benchmark.table.queries)
    np.testing.assert_array_equal(entered.entrant.scores, scores)
    expected = _platt(Fitting(config, entered.fitted_on).held_out, entered.fitted_on, scores)
    np.testing.assert_allclose(entered.entrant.chances().judged, expected)


def _platt(held_out: FloatArray, table: OutcomeTable, scores: FloatArray) -> FloatArray:
    return Calibration.fit("platt", held_out, table.scores).probabilities(scores)


def test_own_policy_has_the_numbers_of_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _fitted(monkeypatch, tmp_path, f"scorer: knn\n{_BUDGET}")
    _, router, entered = _entered(file)
    kept = json.loads((tmp_path / "router" / "policy" / "manifest.json").read_text("utf-8"))
    spec = PolicySpec.parsed("top-1:cost=params_active_b:budget=4.0")
    judged = entered.judge(spec, "majority")
    assert judged.tuned == kept["settings"]["tuned"]
    assert judged.is_calibrated
    assert judged.per_query.shares == _shares(router, entered.benchmark.table.queries)
    # Another budget is tuned anew, on the same scorer.
    dearer = entered.judge(PolicySpec.parsed("top-1:cost=params_active_b:budget=4.6"), "majority")
    assert dearer.tuned not in (None, judged.tuned)
    assert dearer.is_calibrated


@pytest.mark.parametrize("aggregator", ["majority", "weighted", "learned", "first"])
def test_own_aggregator_judges_several_answers(
    aggregator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = f"scorer: knn\npolicy: {{kind: top-2}}\naggregator: {aggregator}"
    _, _, entered = _entered(_fitted(monkeypatch, tmp_path, router))
    judged = entered.judge(PolicySpec.parsed("top-2"), aggregator)
    assert (judged.router, judged.policy, judged.aggregator) == ("knn", "top-2", aggregator)
    assert judged.per_query.calls.tolist() == [2] * 40
    assert judged.is_calibrated == (aggregator in ("weighted", "learned"))
    assert judged.per_query.score.mean() > 0.7


def test_router_that_its_guard_does_not_use_is_judged_as_the_best_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows anything, so there is nothing to route by."""
    file = _fitted(monkeypatch, tmp_path, "scorer: knn", knows=0.5)
    _, router, entered = _entered(file)
    assert isinstance(router.scorer, JudgedScorer)
    assert not router.scorer.is_kept
    best = router.scorer.verdict.best_single
    for spec in ("top-1", "fallback"):
        judged = entered.judge(PolicySpec.parsed(spec), "majority")
        assert judged.router == "best-single"
        assert judged.per_query.shares[best] == 1.0
    assert entered.entrant.chances().fitted_on.shape == (120, 2)


def test_held_out_fits_ask_the_expert_that_named_skills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _fitted(monkeypatch, tmp_path, "scorer: symbolic", "--annotator", "sums", "--no-guard")
    config, router, entered = _entered(file)
    table = entered.fitted_on
    scores = router.scorer.score(entered.benchmark.table.queries)
    told = _platt(Fitting(config, table, "sums").held_out, table, scores)
    untold = _platt(Fitting(config, table).held_out, table, scores)
    assert not np.allclose(told, untold)
    np.testing.assert_allclose(entered.entrant.chances().judged, told)


def _rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["rows"]
    return [row for row in rows if row["policy"] != "reference"]


def test_zoo_is_judged_under_the_policy_and_the_vote_that_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _fitted(
        monkeypatch, tmp_path, "scorer: knn\npolicy: {kind: top-2}\naggregator: weighted"
    )
    out = tmp_path / "rows.json"
    assert _run(monkeypatch, "eval", "zoo", "-c", file, "--json", out) == 0
    (row,) = _rows(out)
    assert (row["router"], row["policy"], row["aggregator"]) == ("knn", "top-2", "weighted")
    assert (row["calls"], row["is_calibrated"]) == (2.0, True)
    assert "routed end to end" in capsys.readouterr().out
    asked = ("--policy", "top-1", "--aggregator", "majority", "--json", out)
    assert _run(monkeypatch, "eval", "zoo", "-c", file, *asked) == 0
    (row,) = _rows(out)
    assert (row["policy"], row["calls"], row["is_calibrated"]) == ("top-1", 1.0, False)


@pytest.mark.parametrize("aggregator", ["chain", "{kind: llm, expert: sums}"])
def test_aggregator_that_asks_again_is_refused_before_anybody_is_asked(
    aggregator: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = _pool(tmp_path, f"scorer: knn\npolicy: {{kind: top-2}}\naggregator: {aggregator}")
    assert _run(monkeypatch, "eval", "zoo", "-c", file) == 2
    error = capsys.readouterr().err
    assert "shows answers to experts again" in error
    assert "--aggregator majority" in error
