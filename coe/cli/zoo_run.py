"""The live run behind `coe eval zoo`: ask everybody, record, judge, and route for real."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coe.assembly import encoder_for, load_router, spec_for
from coe.cli.eval_options import check_routers
from coe.cli.fitting import fitted_entrants
from coe.cli.live_asking import asked_live
from coe.cli.live_run import LiveOptions, run_live_benchmark
from coe.cli.served import ServedRouter
from coe.config import Config, load_config
from coe.errors import ConfigError, DatasetError
from coe.eval.benchmarks.zoo import zoo_benchmark
from coe.eval.datasets import QuestionSet, RecordedBenchmark, load_outcomes, load_zoo, save_outcomes
from coe.eval.entrants import judge
from coe.eval.files import replace_file
from coe.eval.harness import Judged, Row, evaluate
from coe.eval.judging import check_aggregator, comparable
from coe.eval.live import Failure
from coe.eval.provenance import Origin, provenance
from coe.eval.report import FieldMatrix, field_matrix
from coe.outcomes import OutcomeTable
from coe.routers.policies import PolicySpec
from coe.routers.policies.guard import JudgedScorer
from coe.routing import Router


@dataclass(frozen=True, slots=True)
class ZooOptions:
    """What the user asked for."""

    config: Path
    split: str
    routers: Sequence[str] | None
    """None judges the fitted router that the configuration serves."""
    policies: Sequence[PolicySpec] | None
    """None: the configured one, or top-1 of routers that are named."""
    aggregator: str | None
    """None: the configured one, or majority of routers that are named."""
    record: Path | None
    concurrency: int
    ready_timeout_s: float
    seed: int
    run: Path | None = None
    """Folder that keeps every answer, so that the run can be gone on with; None keeps none."""
    retry_failed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ZooResult:
    rows: list[Row]
    fields: FieldMatrix
    provenance: Mapping[str, object]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def judge_zoo(options: ZooOptions, arguments: tuple[str, ...]) -> ZooResult:
    """Every expert answers every question; routers are judged on the test questions.

    Whoever asks the pool names no field, so routers are judged without being told it.

    With split "all" routers are fitted on the train answers of this very run, so that nothing
    recorded is needed; with "test" on the recorded outcomes that the configuration names.
    """
    if options.split not in ("test", "all"):
        raise ConfigError(f"--split is 'test' or 'all', not {options.split!r}")
    config = load_config(options.config)
    judging = _judging(options, config)
    _check(options, judging)
    questions = load_zoo(None if options.split == "all" else options.split)
    recorded = None if options.split == "all" else _recorded(config)
    served = load_router(config) if options.routers is None and recorded else None
    live = _asked(config, options, questions, arguments, served is not None)
    is_test = np.array(questions.splits) == "test"
    answered = live.table.rows(is_test)
    fitted_on = recorded or live.table.rows(~is_test)
    # The served router may still choose an expert that is down; one fitted now is not to know it.
    ids = config.pool.ids if served else _measured(live.table)
    benchmark = RecordedBenchmark(
        answered.for_experts(ids).without_categories(), config.pool.subset(ids)
    )
    fitted_on = fitted_on.for_experts(ids)
    judged = _judged(config, options, judging, benchmark, fitted_on, served)
    rows = evaluate(benchmark, judged, fitted_on, "zoo", seed=options.seed)
    origin = Origin(
        "zoo",
        benchmark.digest(),
        fitted_on.digest(),
        "test",
        "train",
        encoder_for(config.encoder).name,
        options.seed,
        arguments,
    )
    return ZooResult(
        rows,
        field_matrix(answered),
        {**provenance(origin), "category": "hidden"},
        live.failures,
        _notes(live, options, served),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What came of asking."""

    table: OutcomeTable
    failures: tuple[Failure, ...]
    routed: Sequence[float]
    """Score of what came out of routing each query; NaN where nothing did."""


def _asked(
    config: Config,
    options: ZooOptions,
    questions: QuestionSet,
    arguments: tuple[str, ...],
    routes: bool,
) -> _Asked:
    if options.run is None:
        live, routed = asyncio.run(asked_live(config, questions, options, routes))
        if options.record is not None:
            save_outcomes(live.table, options.record, questions.splits, live.further)
        failures = live.failures + (routed.failures if routed else ())
        return _Asked(live.table, failures, routed.scores if routed else ())
    asked = LiveOptions(
        options.config,
        options.run,
        "both" if routes else "all",
        None,
        0.0,
        options.seed,
        options.concurrency,
        options.ready_timeout_s,
        options.retry_failed,
        arguments,
    )
    split = None if options.split == "all" else options.split
    result = run_live_benchmark(zoo_benchmark(split), asked)
    if options.record is not None:
        copied = result.folder.outcomes.read_bytes()
        replace_file(options.record, lambda file: file.write_bytes(copied))
    return _Asked(result.recorded.table, result.recorded.failures, result.recorded.routed)


@dataclass(frozen=True, slots=True)
class _Judging:
    """Under which policies and which vote routers are judged."""

    specs: Sequence[PolicySpec]
    aggregator: str


def _judging(options: ZooOptions, config: Config) -> _Judging:
    if options.routers is None:
        spec, aggregator = spec_for(config), config.router.aggregator.kind
    else:
        spec, aggregator = PolicySpec("top-1"), "majority"
    return _Judging(options.policies or (spec,), options.aggregator or aggregator)


def _check(options: ZooOptions, judging: _Judging) -> None:
    """What can be told wrong before minutes of asking is told then."""
    check_aggregator(judging.aggregator)
    check_routers(options.routers or ())
    if options.record is not None and options.record.is_dir():
        raise ConfigError("is a folder; name a file to write", file=str(options.record))


def _recorded(config: Config) -> OutcomeTable:
    if config.router.outcomes is None:
        raise ConfigError(
            "names no recorded outcomes to choose the best single expert on; set it, or use "
            "--split all",
            file=str(config.file),
            key="router.outcomes",
        )
    table = load_outcomes(config.router.outcomes, "train")
    for expert_id in config.pool.ids:
        if expert_id not in table.expert_ids:
            raise DatasetError(
                f"{config.router.outcomes}: holds no answers of expert {expert_id!r}, so nothing "
                "can be fitted for it; ask it the train questions, too: `coe eval zoo -c "
                f"{config.file} --split all --record FILE`, then `coe fit -c {config.file} "
                "--outcomes FILE`"
            )
    return table.for_experts(config.pool.ids)


def _measured(table: OutcomeTable) -> tuple[str, ...]:
    """The experts with any answer."""
    means = table.means()
    ids = tuple(id_ for id_, mean in zip(table.expert_ids, means, strict=True) if mean == mean)
    if not ids:
        raise DatasetError("no expert gave any answer; see the failures above and start them")
    return ids


def _judged(
    config: Config,
    options: ZooOptions,
    judging: _Judging,
    benchmark: RecordedBenchmark,
    fitted_on: OutcomeTable,
    served: Router | None,
) -> list[Judged]:
    answered = RecordedBenchmark(comparable(benchmark.table), benchmark.pool)
    trained, aggregator = comparable(fitted_on), judging.aggregator
    if served is not None:
        entered = ServedRouter(config, served, answered, trained)
        return [entered.judge(spec, aggregator) for spec in judging.specs]
    names = options.routers or [config.router.scorer]
    encoder = encoder_for(config.encoder)
    entrants = fitted_entrants(names, fitted_on, benchmark, encoder, tells_category=False)
    return [
        judge(each, spec, aggregator, answered, trained)
        for each in entrants
        for spec in judging.specs
    ]


def _notes(live: _Asked, options: ZooOptions, served: Router | None) -> tuple[str, ...]:
    notes = []
    guard = served.scorer if served is not None else None
    if isinstance(guard, JudgedScorer) and not guard.is_kept:
        verdict = guard.verdict
        notes.append(f"guard: {verdict}, so {verdict.best_single} answers everything")
    if len(live.routed):
        measured = [score for score in live.routed if score == score]
        notes.append(
            f"routed end to end: {100 * sum(measured) / max(1, len(measured)):.1f} % "
            f"of {len(measured)} answers, {len(live.routed) - len(measured)} failures"
        )
    if live.failures:
        first = live.failures[0]
        notes.append(f"{len(live.failures)} answers failed, the first: {first.error}")
    kept = options.record or options.run
    if kept is not None:
        notes.append(f"every answer is in {kept}")
    return tuple(notes)
