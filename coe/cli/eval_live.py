"""`coe eval`'s benchmarks that are really asked, each with the same options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coe.cli.eval_live_options import (
    AskOption,
    BaselineOption,
    CheckTimeOption,
    ConcurrencyOption,
    HubOption,
    JudgeKeyOption,
    JudgeOption,
    LimitOption,
    QuestionsOption,
    ReadyOption,
    RetryOption,
    RunOption,
    ScorerOption,
    SeedOption,
    ShotsOption,
    SplitsOption,
    TemperatureOption,
    TokensOption,
)
from coe.cli.eval_options import ReportOption
from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coe.cli.live_run import LiveOptions, LiveResult
    from coe.eval.benchmarks.catalog import Source

_INTERRUPTED = 130
_ASKED = {
    "gpqa": "Ask the questions of GPQA, live.",
    "aime": "Ask the problems of AIME, live.",
    "medmcqa": "Ask the questions of MedMCQA, live.",
}
_JUDGED = {
    "mt-bench": "Ask the questions of MT-Bench, live, and let a judge grade both turns.",
    "arena-hard": "Ask the prompts of Arena-Hard, live; a judge compares with a baseline.",
}


def register_live(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, told in _ASKED.items():
        _register(app, name, told)
    for name, told in _JUDGED.items():
        _register_judged(app, name, told)
    app.command("custom")(custom)


def _register(app: typer.Typer, name: str, told: str) -> None:
    def asked(
        context: typer.Context,
        config: ConfigOption = DEFAULT_CONFIG,
        data: QuestionsOption = None,
        hub: HubOption = None,
        split: SplitsOption = "test",
        run: RunOption = None,
        ask: AskOption = "routed",
        shots: ShotsOption = None,
        limit: LimitOption = None,
        max_tokens: TokensOption = None,
        temperature: TemperatureOption = 0.0,
        concurrency: ConcurrencyOption = 16,
        ready_timeout: ReadyOption = 60.0,
        retry_failed: RetryOption = False,
        json_file: ReportOption = None,
        seed: SeedOption = 0,
    ) -> None:
        ask_live_as(name, context.params)

    asked.__doc__ = told
    app.command(name)(asked)


def _register_judged(app: typer.Typer, name: str, told: str) -> None:
    def asked(
        context: typer.Context,
        config: ConfigOption = DEFAULT_CONFIG,
        judge: JudgeOption = None,
        judge_key_env: JudgeKeyOption = None,
        baseline: BaselineOption = None,
        data: QuestionsOption = None,
        hub: HubOption = None,
        split: SplitsOption = "test",
        run: RunOption = None,
        ask: AskOption = "routed",
        limit: LimitOption = None,
        max_tokens: TokensOption = None,
        temperature: TemperatureOption = 0.0,
        concurrency: ConcurrencyOption = 16,
        ready_timeout: ReadyOption = 60.0,
        retry_failed: RetryOption = False,
        json_file: ReportOption = None,
        seed: SeedOption = 0,
    ) -> None:
        ask_live_as(name, context.params)

    asked.__doc__ = told
    app.command(name)(asked)


def custom(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    data: QuestionsOption = None,
    hub: HubOption = None,
    split: SplitsOption = "test",
    scorer: ScorerOption = "exact",
    check_time: CheckTimeOption = 10.0,
    judge: JudgeOption = None,
    judge_key_env: JudgeKeyOption = None,
    baseline: BaselineOption = None,
    run: RunOption = None,
    ask: AskOption = "routed",
    limit: LimitOption = None,
    max_tokens: TokensOption = None,
    temperature: TemperatureOption = 0.0,
    concurrency: ConcurrencyOption = 16,
    ready_timeout: ReadyOption = 60.0,
    retry_failed: RetryOption = False,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Ask questions of your own, live; docs/evaluation.md has the rows of a file."""
    ask_live_as("custom", context.params)


def ask_live_as(name: str, params: Mapping[str, Any]) -> None:
    """Asks a benchmark with the options of a command, by their names there; prints what came."""
    from coe.cli.live_run import run_live_benchmark
    from coe.eval.benchmarks.catalog import load_benchmark

    source, options = _source(params), _options(params)
    benchmark = load_benchmark(name, source).first(params["limit"], options.seed)
    try:
        result = run_live_benchmark(benchmark, options)
    except KeyboardInterrupt:
        print("coe: stopped; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    show_live(result, name, source, params["json_file"])


def _source(params: Mapping[str, Any]) -> Source:
    """A benchmark that has no such option has the usual one."""
    from coe.cli.eval_options import listed
    from coe.eval.benchmarks.catalog import Source
    from coe.eval.benchmarks.checking import Sandbox

    return Source(
        data=params["data"],
        hub=params["hub"],
        splits=tuple(listed(params["split"])),
        n_shots=params.get("shots"),
        scorer=params.get("scorer"),
        sandbox=Sandbox(time_s=params.get("check_time", Sandbox().time_s)),
        seed=params["seed"],
    )


def _options(params: Mapping[str, Any]) -> LiveOptions:
    from coe.cli.eval_judge import JudgeOptions
    from coe.cli.live_run import LiveOptions

    same = ("config", "run", "ask", "max_tokens", "temperature", "seed", "concurrency")
    return LiveOptions(
        **{name: params[name] for name in same},
        ready_timeout_s=params["ready_timeout"],
        retry_failed=params["retry_failed"],
        arguments=tuple(sys.argv[1:]),
        judging=JudgeOptions(
            params.get("judge"), params.get("judge_key_env"), params.get("baseline")
        ),
    )


def show_live(result: LiveResult, name: str, source: Source, json_file: Path | None) -> None:
    from coe.cli.eval_output import Output

    out = Output()
    out.standings(result.recorded.standings, f"{name}, live, split {','.join(source.splits)}")
    if result.win_rates:
        out.win_rates(result.win_rates)
    for line in notes(result):
        out.line(line)
    if json_file is not None:
        try:
            json_file.write_bytes(result.folder.summary.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot be written: {error}", file=str(json_file)) from None
        out.line(f"written to {json_file}")


def notes(result: LiveResult) -> list[str]:
    """What the table does not say."""
    from coe.eval.headroom import headroom_of

    told = []
    failures = result.recorded.failures
    if failures:
        first = failures[0].error
        told.append(
            f"{len(failures)} answers failed, the first: {first}; --retry-failed asks them again"
        )
    room = headroom_of(result.recorded.table)
    if room is not None and room.oracle > room.best_single:
        told.append(room.words)
    resumed = f", {result.n_resumed} answers by an earlier run" if result.n_resumed else ""
    told.append(f"{result.wall_s:.1f} s, {result.n_swaps} loads{resumed}; {result.folder.path}")
    return told
