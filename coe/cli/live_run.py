"""A benchmark really asked of a configured pool: opened, watched, recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coe.assembly import load_planned, planned_engines, spec_for
from coe.cli.eval_judge import JudgeOptions
from coe.cli.live_asking import Asked, unready_experts
from coe.cli.progress import watched
from coe.config import Config, load_config
from coe.errors import ConfigError, nearest
from coe.eval.asking import LiveSettings
from coe.eval.benchmarks.question import Benchmark, Question
from coe.eval.datasets import Grade
from coe.eval.judges.panel import Panel, hear_judge
from coe.eval.judges.winrates import WinRate, win_rates
from coe.eval.provenance import Origin, provenance
from coe.eval.runs.folder import RunFolder, digest_of
from coe.eval.runs.journal import Journal, Record
from coe.eval.runs.recording import Answered, Recorded, record_run
from coe.eval.runs.running import BenchmarkRun, Door, Subject
from coe.routing import RoutingDecision
from coe.scheduling.planned_pool import PlannedPool
from coe.types import SamplingParams

ASKED = ("routed", "all", "both")
"""Who is asked: those the router chooses, everybody, or everybody and then the router."""
_RUNS = Path("runs")
_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What the user asked for."""

    config: Path
    run: Path | None
    """None: a folder named by the benchmark and by all that decides the results."""
    ask: str
    """One of `ASKED`."""
    max_tokens: int | None
    """Most of an answer; None: as many as the pool's file allows each expert."""
    temperature: float
    seed: int
    concurrency: int
    ready_timeout_s: float
    retry_failed: bool
    arguments: tuple[str, ...]
    judging: JudgeOptions = field(default_factory=JudgeOptions)
    """Of benchmarks that a judge scores."""


@dataclass(frozen=True, slots=True)
class LiveResult:
    """A finished run, and what this process had to do for it."""

    folder: RunFolder
    recorded: Recorded
    wall_s: float
    n_swaps: int
    n_resumed: int
    """Answers that an earlier process had heard."""
    win_rates: tuple[WinRate, ...] = ()
    """Where answers played against a baseline."""


def run_live_benchmark(benchmark: Benchmark, options: LiveOptions) -> LiveResult:
    """Asks what is not in the run's folder yet, and writes there what came of it."""
    config = load_config(options.config)
    if benchmark.scorer == "judge":
        options.judging.check(config, benchmark)
    door, planned = _door(config, options)
    plan = _plan(benchmark, config, door, options)
    folder = RunFolder(options.run or _RUNS / f"{benchmark.name}-{digest_of(plan)[:8]}")
    folder.begin(plan, _provenance(benchmark, options))
    with Journal(folder.answers) as journal:
        if options.retry_failed:
            journal.forget(journal.failed)
        n_resumed = len(journal.spots)
        began_s = time.perf_counter()
        decisions = asyncio.run(
            _answered(config, door, benchmark, (folder, journal), options, planned)
        )
        wall_s = time.perf_counter() - began_s
        panel = _panel(config, door, benchmark, journal, options)

        def grade(question: Question, subject: Subject, record: Record) -> Grade | None:
            if panel is not None:
                return panel.grade(question, subject) if subject in panel.subjects else None
            return benchmark.score(question, record.text or "")

        run = Answered(benchmark, config.pool, journal, decisions)
        recorded = record_run(folder, run, grade, options.seed)
        rates = _win_rates(panel, options.seed)
    n_swaps = planned.standing.n_swaps if planned is not None else 0
    result = LiveResult(folder, recorded, wall_s, n_swaps, n_resumed, rates)
    folder.write(folder.summary, _summary(result))
    return result


def _door(config: Config, options: LiveOptions) -> tuple[Door, PlannedPool | None]:
    ask = options.ask
    if ask not in ASKED:
        guess = nearest(ask, ASKED)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(f"--ask is one of {', '.join(ASKED)}, not {ask!r}{hint}")
    if ask == "all":
        engines, planned = planned_engines(config)
        return Door(engines, config.pool, alone=config.pool.ids), planned
    composition, planned = load_planned(config)
    baseline = options.judging.baseline_expert(config)
    some = () if baseline is None else (baseline,)
    alone = config.pool.ids if ask == "both" else some
    return Door(dict(composition.engines), config.pool, composition, alone), planned


def _panel(
    config: Config, door: Door, benchmark: Benchmark, journal: Journal, options: LiveOptions
) -> Panel | None:
    """The judge of all that was asked; the baseline does not play against itself."""
    if benchmark.scorer != "judge":
        return None
    baseline = options.judging.baseline_expert(config)
    subjects = [Subject(id_) for id_ in door.alone if id_ != baseline]
    if door.composition is not None:
        subjects.insert(0, Subject())
    answers = options.judging.answers(config, benchmark, journal)
    return Panel(options.judging.name, benchmark, journal, subjects, answers)


def _win_rates(panel: Panel | None, seed: int) -> tuple[WinRate, ...]:
    if panel is None or panel.baseline is None:
        return ()
    questions = panel.benchmark.questions
    return win_rates([panel.compared(q, s) for s in panel.subjects for q in questions], seed)


async def _answered(
    config: Config,
    door: Door,
    benchmark: Benchmark,
    kept: tuple[RunFolder, Journal],
    options: LiveOptions,
    planned: PlannedPool | None,
) -> list[RoutingDecision]:
    folder, journal = kept
    try:
        settings = LiveSettings(
            _params(options),
            options.concurrency,
            config.startup_timeout_s,
            await unready_experts(config, door.engines, options.ready_timeout_s, planned),
            planned=planned,
            journal=journal,
        )
        run = BenchmarkRun(door, benchmark, folder, settings)
        asked = Asked(run.n_asked, f"of {benchmark.name}", planned)
        async with watched(asked.moment):
            decisions = await run.answer(asked)
        panel = _panel(config, door, benchmark, journal, options)
        if panel is not None:
            engine = options.judging.engine(config, door.engines)
            judged = Asked(len(panel.cases()), "judged", planned)
            async with watched(judged.moment):
                await hear_judge(panel, engine, options.concurrency, planned, judged)
            await engine.stop(_STOP_S)
        return decisions
    finally:
        if door.composition is not None:
            await door.composition.stop(_STOP_S)
        stops = (engine.stop(_STOP_S) for engine in door.engines.values())
        await asyncio.gather(*stops, return_exceptions=True)


def _params(options: LiveOptions) -> SamplingParams:
    return SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )


def _plan(
    benchmark: Benchmark, config: Config, door: Door, options: LiveOptions
) -> Mapping[str, object]:
    """All that decides what comes out."""
    composition = door.composition
    return {
        "benchmark": benchmark.name,
        "data_digest": benchmark.digest(),
        "questions": len(benchmark.questions),
        "splits": sorted(set(benchmark.splits)),
        "experts": list(config.pool.ids),
        "ask": options.ask,
        "router": None if composition is None else composition.router.scorer.name,
        "policy": None if composition is None else str(spec_for(config)),
        "aggregator": None if composition is None else composition.aggregator.name,
        "revision": None if composition is None else composition.revision,
        "params": asdict(_params(options)),
        "judge": options.judging.judge,
        "baseline": options.judging.baseline,
    }


def _provenance(benchmark: Benchmark, options: LiveOptions) -> Mapping[str, object]:
    origin = Origin(
        benchmark=benchmark.name,
        data_digest=benchmark.digest(),
        fit_digest=None,
        split=",".join(sorted(set(benchmark.splits))),
        fit_split=None,
        encoder=None,
        seed=options.seed,
        arguments=options.arguments,
    )
    return provenance(origin)


def _summary(result: LiveResult) -> Mapping[str, object]:
    return {
        "standings": [asdict(standing) for standing in result.recorded.standings],
        "wall_s": result.wall_s,
        "swaps": result.n_swaps,
        "resumed": result.n_resumed,
        "win_rates": [asdict(rate) for rate in result.win_rates],
    }
