"""Benchmarks really asked of scripted experts, cut off anywhere and gone on with."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coe.cli.eval_judge import JudgeOptions
from coe.cli.live_run import LiveOptions, LiveResult, run_live_benchmark
from coe.errors import ConfigError
from coe.eval.benchmarks.catalog import Source, load_benchmark
from coe.eval.benchmarks.question import Benchmark
from coe.eval.datasets import load_outcomes
from coe.eval.runs.comparing import compare_runs
from coe.eval.runs.folder import RunFolder

pytest.importorskip("pyarrow")

N = 12
POOL = """
experts:
  - {id: a, engine: {kind: scripted, default: "The answer is (A)."}, footprint: {gib: 10, watts: 9}}
  - {id: b, engine: {kind: scripted, default: "The answer is (B)."}, footprint: {gib: 10}}
  - {id: c, engine: {kind: scripted, answers: {number 3: ""}, default: "I cannot say"},
     footprint: {gib: 10}, price: {usd_per_mtok_in: 1, usd_per_mtok_out: 2}}
  - {id: w, engine: {kind: scripted, answers: {candidate: "The answer is (A).", Two assistants: x},
     default: "The answer is (D)."}, footprint: {gib: 10}}
router: {scorer: random, policy: {kind: top-k, k: 3}, aggregator: {kind: llm, expert: w}}
local_memory_gib: 20
"""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    file = tmp_path / "experts.yaml"
    file.write_text(POOL, "utf-8")
    return file


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    rows = [
        {
            "id": f"q{i}",
            "question": f"question number {i}",
            "options": ["one", "two", "three", "four"],
            "answer": "AB"[i % 2],
            "category": "odd" if i % 2 else "even",
        }
        for i in range(N)
    ]
    file = tmp_path / "gpqa_test.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return load_benchmark("gpqa", Source(tmp_path))


def _options(pool: Path, run: Path, ask: str = "routed", retry: bool = False) -> LiveOptions:
    return LiveOptions(pool, run, ask, None, 0.0, 0, 4, 5.0, retry, ())


def _run(benchmark: Benchmark, pool: Path, run: Path, ask: str = "routed") -> LiveResult:
    return run_live_benchmark(benchmark, _options(pool, run, ask))


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "results.jsonl").read_text("utf-8").splitlines()]


def test_benchmark_run_has_one_row_for_each_question_stage_and_expert(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    _run(benchmark, pool, tmp_path / "run")
    rows = _rows(tmp_path / "run")
    counts = Counter((row["query_id"], row["stage"], row["expert"]) for row in rows)
    assert set(counts.values()) == {1}
    stages = Counter(row["stage"] for row in rows)
    assert stages == {"answer": 3 * N, "write": N, "final": N}
    finals = {row["query_id"]: row for row in rows if row["stage"] == "final"}
    assert {row["answer"] for row in finals.values()} == {"A"}
    assert [finals[f"q{i}"]["score"] for i in range(4)] == [1.0, 0.0, 1.0, 0.0]
    assert all(len(row["experts"]) == 3 for row in finals.values())


def test_benchmark_run_loads_each_expert_once_a_stage(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    alone = _run(benchmark, pool, tmp_path / "all", "all")
    assert alone.n_swaps == 4
    routed = _run(benchmark, pool, tmp_path / "routed")
    # Four answer and one of them, which stays, writes.
    assert routed.n_swaps == 4


def test_benchmark_run_cut_anywhere_has_the_same_results(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    _run(benchmark, pool, whole, "both")
    written = (whole / "answers.jsonl").read_bytes()
    chance = random.Random(0)
    for cut in sorted(chance.randrange(len(written)) for _ in range(20)):
        broken = tmp_path / f"cut-{cut}"
        broken.mkdir()
        shutil.copy(whole / "run.json", broken)
        if cut % 3:
            shutil.copy(whole / "plan.jsonl", broken)
        (broken / "answers.jsonl").write_bytes(written[:cut])
        result = _run(benchmark, pool, broken, "both")
        assert result.n_resumed == written[:cut].count(b"\n")
        assert result.n_swaps <= 8
        assert (broken / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


def test_benchmark_run_goes_on_with_whom_it_had_chosen(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    _run(benchmark, pool, run)
    chosen = [json.loads(line) for line in (run / "plan.jsonl").read_text("utf-8").splitlines()]
    told = [json.dumps({**row, "experts": ["c", "b", "a"]}) for row in chosen]
    (run / "plan.jsonl").write_text("\n".join(told), "utf-8")
    (run / "answers.jsonl").unlink()
    _run(benchmark, pool, run)
    finals = [row for row in _rows(run) if row["stage"] == "final"]
    assert {tuple(row["experts"]) for row in finals} == {("c", "b", "a")}


def test_benchmark_run_that_is_finished_asks_nobody_again(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    first = _run(benchmark, pool, tmp_path / "run")
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    again = _run(benchmark, pool, tmp_path / "run")
    assert (first.n_swaps, again.n_swaps) == (4, 0)
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    assert again.n_resumed == 5 * N


def test_benchmark_run_of_other_questions_is_refused(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    _run(benchmark.first(5, 0), pool, tmp_path / "run")
    with pytest.raises(ConfigError, match="was begun with"):
        _run(benchmark, pool, tmp_path / "run")


def test_benchmark_run_becomes_a_table_to_fit_on(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = _run(benchmark, pool, run, "all")
    table = load_outcomes(run / "outcomes.parquet", "test")
    assert table.expert_ids == ("a", "b", "c", "w")
    np.testing.assert_array_equal(table.column("a"), [1.0, 0.0] * (N // 2))
    np.testing.assert_array_equal(table.column("c"), np.zeros(N))
    assert table.answers is not None
    assert {row[2] for row in table.answers} == {None}
    assert table.cost_usd is not None
    assert (table.cost_usd[:, 2] > 0).all()
    by_name = {standing.name: standing for standing in result.recorded.standings}
    assert (by_name["c"].n_unreadable, by_name["a"].n_unreadable) == (N, 0)
    assert by_name["a"].energy_j >= 0
    assert np.isnan(by_name["b"].energy_j)
    assert result.recorded.routed == ()


def test_benchmark_run_routed_measures_only_who_was_chosen(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    _run(benchmark, pool, tmp_path / "run")
    table = load_outcomes(tmp_path / "run" / "outcomes.parquet")
    assert (~np.isnan(table.scores)).sum(axis=1).tolist() == [3] * N


def test_benchmark_run_draws_the_same_questions_for_the_same_seed(benchmark: Benchmark) -> None:
    drawn = [q.id for q in benchmark.first(5, 7).queries]
    assert drawn == [q.id for q in benchmark.first(5, 7).queries]
    assert drawn != [q.id for q in benchmark.first(5, 8).queries]
    assert len(drawn) == 5
    assert benchmark.first(5, 7).digest() != benchmark.digest()


def test_benchmark_run_failures_are_kept_and_asked_again_when_wished(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    broken = pool.with_name("broken.yaml")
    broken.write_text(
        POOL.replace(
            'default: "The answer is (A)."}, footprint',
            "default: x y z, fail_after_tokens: 1}, footprint",
        ),
        "utf-8",
    )
    run = tmp_path / "run"
    first = _run(benchmark, broken, run, "all")
    by_name = {standing.name: standing for standing in first.recorded.standings}
    assert (by_name["a"].n, by_name["a"].n_failed) == (0, N)
    assert len(first.recorded.failures) == N
    assert np.isnan(first.recorded.table.column("a")).all()
    again = _run(benchmark, broken, run, "all")
    assert again.n_swaps == 0
    mended = run_live_benchmark(benchmark, _options(pool, run, "all", retry=True))
    assert mended.recorded.failures == ()
    assert mended.n_swaps == 1


def test_benchmark_run_says_who_can_be_asked(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'routed'"):
        _run(benchmark, pool, tmp_path / "run", "route")
    assert not (tmp_path / "run").exists()


def test_runs_are_compared_question_by_question(
    benchmark: Benchmark, pool: Path, tmp_path: Path
) -> None:
    _run(benchmark, pool, tmp_path / "one", "both")
    other = pool.with_name("other.yaml")
    other.write_text(POOL.replace('candidate: "The answer is (A)."', "candidate: (B) it is."))
    _run(benchmark.first(N - 2, 0), other, tmp_path / "two", "both")
    made = compare_runs(RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two"))
    routed, *experts = made.contrasts
    assert (routed.subject, routed.n) == ("routed", N - 2)
    assert routed.n_better + routed.n_worse == N - 2
    assert {each.diff for each in experts} == {0.0}
    assert made.changed["questions"] == (N, N - 2)


def _judged(folder: Path, turns: int) -> Benchmark:
    rows = [
        {"question_id": 80 + i, "turns": [f"write {i}", "shorter"][:turns], "category": "writing"}
        for i in range(4)
    ]
    (folder / "question.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return load_benchmark("mt-bench", Source(folder / "question.jsonl"))


JUDGED = """
experts:
  - {id: a, engine: {kind: scripted, answers: {shorter: "second of a"}, default: "first of a"}}
  - {id: b, engine: {kind: scripted, default: "b"}}
  - {id: j, engine: {kind: scripted, answers: {"second of a": "fine [[9]]", "Grade": "well [[5]]",
     "Two assistants": "[[B>A]]"}, default: hm}}
router: {scorer: random, policy: {kind: top-k, k: 2}}
"""


def test_judge_grades_both_turns_of_every_answer(tmp_path: Path) -> None:
    pool = tmp_path / "experts.yaml"
    pool.write_text(JUDGED, "utf-8")
    options = replace(_options(pool, tmp_path / "run", "all"), judging=JudgeOptions("j"))
    result = run_live_benchmark(_judged(tmp_path, 2), options)
    by_name = {standing.name: standing.accuracy for standing in result.recorded.standings}
    # The first turn of a is worth 5, its second 9; all of b's turns are worth 5.
    assert by_name["a"] == pytest.approx(0.7)
    assert by_name["b"] == pytest.approx(0.5)
    cases = [row["case"] for row in _rows(tmp_path / "run") if row["stage"] == "judge"]
    assert len(cases) == len(set(cases)) == 4 * 2 * 3


def test_judge_that_favours_a_place_makes_ties(tmp_path: Path) -> None:
    pool = tmp_path / "experts.yaml"
    pool.write_text(JUDGED, "utf-8")
    judging = JudgeOptions("j", baseline="b")
    options = replace(_options(pool, tmp_path / "run"), judging=judging)
    result = run_live_benchmark(_judged(tmp_path, 1), options)
    (rate,) = result.win_rates
    assert (rate.subject, rate.n, rate.raw, rate.consistent) == ("", 4, 0.5, 0.0)
    assert rate.style_controlled == pytest.approx(0.5)
