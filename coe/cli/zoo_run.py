"""The live run behind `coe eval zoo`: ask everybody, record, judge, and route for real."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coe.assembly import (
    ROUTERS,
    encoder_for,
    engines_for,
    fit_scorer,
    load_router,
    scorer_kind,
)
from coe.cli.progress import progress_bar
from coe.composition import Composition
from coe.config import Config, load_config
from coe.errors import ConfigError
from coe.eval.datasets import QuestionSet, RecordedBenchmark, load_outcomes, load_zoo, save_outcomes
from coe.eval.harness import Row, evaluate
from coe.eval.live import Failure, LiveRun, LiveSettings, RoutedRun, run_live, run_routed
from coe.eval.provenance import Origin, provenance
from coe.eval.report import FieldMatrix, field_matrix
from coe.outcomes import OutcomeTable
from coe.routers.policies import policy_named
from coe.routing import Router


@dataclass(frozen=True, slots=True)
class ZooOptions:
    """What the user asked for."""

    config: Path
    split: str
    routers: Sequence[str] | None
    """None judges the fitted router that the configuration serves."""
    policies: Sequence[str]
    record: Path | None
    concurrency: int
    seed: int


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
    _check_names(options)
    config = load_config(options.config)
    questions = load_zoo(None if options.split == "all" else options.split)
    fitted_on = None if options.split == "all" else _recorded(config)
    served = load_router(config) if options.routers is None and fitted_on else None
    live, routed = asyncio.run(_ask(config, questions, options, served))
    if options.record is not None:
        save_outcomes(live.table, options.record, questions.splits, live.further)
    is_test = np.array(questions.splits) == "test"
    answered = live.table.rows(is_test)
    judged = RecordedBenchmark(answered.without_categories(), config.pool)
    fitted_on = fitted_on or live.table.rows(~is_test)
    routers = _routers(config, options, fitted_on, served)
    rows = evaluate(judged, routers, fitted_on, "zoo", seed=options.seed)
    origin = Origin(
        "zoo",
        judged.digest(),
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
        live.failures + (routed.failures if routed else ()),
        _notes(live, routed, options),
    )


def _check_names(options: ZooOptions) -> None:
    """What can be told wrong before minutes of asking is told then."""
    for policy in options.policies:
        policy_named(policy)
    for name in options.routers or ():
        if name not in ROUTERS:
            scorer_kind(name)
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
    return load_outcomes(config.router.outcomes, "train").for_experts(config.pool.ids)


async def _ask(
    config: Config, questions: QuestionSet, options: ZooOptions, served: Router | None
) -> tuple[LiveRun, RoutedRun | None]:
    engines = engines_for(config)
    settings = LiveSettings(
        concurrency=options.concurrency, ready_timeout_s=config.startup_timeout_s
    )
    n_queries = len(questions.queries)
    try:
        with progress_bar("asking every expert", n_queries * len(config.pool)) as bar:
            live = await run_live(
                engines, config.pool, questions.queries, questions.grade, settings, bar
            )
        if served is None:
            return live, None
        hidden = [replace(query, category=None) for query in questions.queries]
        with progress_bar("asking the routed expert", n_queries) as bar:
            routed = await run_routed(
                Composition(served, engines), hidden, questions.grade, settings, bar
            )
        return live, routed
    finally:
        stops = (engine.stop(10.0) for engine in engines.values())
        await asyncio.gather(*stops, return_exceptions=True)


def _routers(
    config: Config, options: ZooOptions, fitted_on: OutcomeTable, served: Router | None
) -> dict[str, Router]:
    policies = [policy_named(policy) for policy in options.policies]
    if served is not None:
        return {f"{served.scorer.name}/{p.name}": served.with_policy(p) for p in policies}
    encoder = encoder_for(config.encoder)
    names = options.routers or [config.router.scorer]
    scorers = {name: fit_scorer(name, fitted_on, encoder) for name in names}
    return {
        f"{name}/{p.name}": Router(scorer, p, config.pool)
        for name, scorer in scorers.items()
        for p in policies
    }


def _notes(live: LiveRun, routed: RoutedRun | None, options: ZooOptions) -> tuple[str, ...]:
    notes = []
    if routed is not None:
        measured = [score for score in routed.scores if score == score]
        notes.append(
            f"routed end to end: {100 * sum(measured) / max(1, len(measured)):.1f} % "
            f"of {len(measured)} answers, {len(routed.failures)} failures"
        )
    if live.failures:
        first = live.failures[0]
        notes.append(f"{len(live.failures)} answers failed, the first: {first.error}")
    if options.record is not None:
        notes.append(f"every answer is in {options.record}")
    return tuple(notes)
