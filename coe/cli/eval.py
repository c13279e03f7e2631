"""`coe eval`: routers and experts measured on a benchmark, live or on recorded answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coe.cli.beir import beir
from coe.cli.eval_compare import compare
from coe.cli.eval_live import ask_live_as, register_live
from coe.cli.eval_live_options import (
    AskOption,
    ConcurrencyOption,
    HubOption,
    KeptRunOption,
    LimitOption,
    ReadyOption,
    RetryOption,
    RunOption,
    ShotsOption,
    TemperatureOption,
    TokensOption,
)
from coe.cli.eval_options import (
    AggregatorOption,
    CostOption,
    DataOption,
    EncoderOption,
    FitDataOption,
    FitSplitOption,
    HideOption,
    LeaderboardOption,
    MaybeDataOption,
    PlotOption,
    PolicyOption,
    PoolOption,
    ReportOption,
    RoutersOption,
    SeedOption,
    SplitOption,
)
from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coe.cli.recorded_run import Load, RecordedOptions
    from coe.eval.recorded import RecordedBenchmark

eval_app = typer.Typer(
    help="Measure routers and experts on a benchmark.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

register_live(eval_app)
eval_app.command("compare")(compare)
eval_app.command("beir")(beir)


@eval_app.command("mmlu-pro")
def mmlu_pro(
    context: typer.Context,
    data: MaybeDataOption = None,
    split: SplitOption = "test",
    pool: PoolOption = None,
    router: RoutersOption = None,
    policy: PolicyOption = None,
    aggregator: AggregatorOption = None,
    text: Annotated[
        str, typer.Option(help="What is routed: question, or question-options as live clients ask.")
    ] = "question",
    fit_data: FitDataOption = None,
    fit_split: FitSplitOption = "train",
    encoder: EncoderOption = "auto",
    hide_category: HideOption = False,
    leaderboard: LeaderboardOption = False,
    cost: CostOption = None,
    plot: PlotOption = None,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the experts of --config; the options below are its.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    hub: HubOption = None,
    run: RunOption = None,
    ask: AskOption = "routed",
    shots: ShotsOption = None,
    limit: LimitOption = None,
    max_tokens: TokensOption = None,
    temperature: TemperatureOption = 0.0,
    concurrency: ConcurrencyOption = 16,
    ready_timeout: ReadyOption = 60.0,
    retry_failed: RetryOption = False,
) -> None:
    """Judge routers on recorded answers of real models to MMLU-Pro, or ask it --live."""
    from coe.eval.datasets import load_mmlu_pro

    if live:
        ask_live_as("mmlu-pro", context.params)
        return
    if data is None:
        raise ConfigError(
            "name the folder of recorded answers as --data (docs/data.md), or ask with --live"
        )

    def load(folder: Path, of_split: str, experts: Sequence[str] | str) -> RecordedBenchmark:
        return load_mmlu_pro(folder, of_split, experts, text)

    _judge(_recorded("mmlu-pro", context.params), load, leaderboard, json_file)


@eval_app.command("llmrouter-mix")
def llmrouter_mix(
    context: typer.Context,
    data: DataOption,
    split: SplitOption = "test",
    pool: PoolOption = None,
    router: RoutersOption = None,
    policy: PolicyOption = None,
    aggregator: AggregatorOption = None,
    fit_data: FitDataOption = None,
    fit_split: FitSplitOption = "train",
    encoder: EncoderOption = "auto",
    hide_category: HideOption = False,
    leaderboard: LeaderboardOption = False,
    cost: CostOption = None,
    plot: PlotOption = None,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Judge routers on recorded scores of nine models on fourteen tasks.

    Answers were not recorded, so only policies that ask one expert can be judged.
    """
    from coe.eval.datasets import load_llmrouter_mix

    _judge(_recorded("llmrouter-mix", context.params), load_llmrouter_mix, leaderboard, json_file)


@eval_app.command("zoo")
def zoo(
    config: ConfigOption = DEFAULT_CONFIG,
    split: Annotated[
        str, typer.Option(help="test; or all: ask train and test, fit on the one, judge the other.")
    ] = "test",
    router: RoutersOption = None,
    policy: PolicyOption = None,
    aggregator: AggregatorOption = None,
    record: Annotated[
        Path | None, typer.Option(help="Write every answer and outcome to this file (parquet).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions in flight.")] = 16,
    ready_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for experts before going on without.")
    ] = 60.0,
    run: KeptRunOption = None,
    retry_failed: RetryOption = False,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Ask every expert of the zoo every question, live, and judge routers on the answers."""
    from coe.cli.eval_options import listed, specs_of
    from coe.cli.eval_output import Output
    from coe.cli.zoo_run import ZooOptions, judge_zoo

    options = ZooOptions(
        config=config,
        split=split,
        routers=None if router is None else tuple(listed(router)),
        policies=None if policy is None else tuple(specs_of(listed(policy))),
        aggregator=aggregator,
        record=record,
        concurrency=concurrency,
        ready_timeout_s=ready_timeout,
        seed=seed,
        run=run,
        retry_failed=retry_failed,
    )
    result = judge_zoo(options, tuple(sys.argv[1:]))
    out = Output()
    out.rows(result.rows, "The zoo, live, split test, category hidden")
    out.fields(result.fields)
    out.report_json(json_file, result.rows, result.provenance, result.fields, result.failures)
    for line in result.notes:
        out.line(line)


def _recorded(benchmark: str, params: Mapping[str, Any]) -> RecordedOptions:
    """The options of a command on recorded answers, by their names there."""
    from coe.cli.recorded_run import RecordedOptions

    same = ("data", "split", "pool", "aggregator", "fit_data", "fit_split", "encoder")
    return RecordedOptions(
        benchmark=benchmark,
        routers=params["router"],
        policies=params["policy"],
        hide_category=params["hide_category"],
        cost=params["cost"],
        plot=params["plot"],
        seed=params["seed"],
        arguments=tuple(sys.argv[1:]),
        **{name: params[name] for name in same},
    )


def _judge(
    options: RecordedOptions, load: Load, is_leaderboard: bool, json_file: Path | None
) -> None:
    from coe.cli.eval_output import Output
    from coe.cli.recorded_run import judge_leaderboard, judge_recorded

    out = Output()
    if is_leaderboard:
        boards = judge_leaderboard(options, load)
        out.boards(boards.boards, options.traded)
        out.boards_json(json_file, boards.boards, boards.provenance)
        if options.plot is not None:
            out.line(f"drawn to {options.plot}")
        return
    result = judge_recorded(options, load)
    title = (
        f"{options.benchmark}, split {options.split}, pool {result.pool}, category {result.told}"
    )
    out.rows(result.rows, title)
    out.report_json(json_file, result.rows, result.provenance)
