"""`coe eval`: routers and experts measured on a benchmark, live or on recorded answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.cli.progress import progress_bar
from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.eval.harness import Row
    from coe.eval.live import Failure
    from coe.eval.report import FieldMatrix
    from coe.experts import ExpertPool
    from coe.outcomes import OutcomeTable
    from coe.routing import Encoder, Router

eval_app = typer.Typer(
    help="Measure routers and experts on a benchmark.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RoutersOption = Annotated[
    str | None, typer.Option("--router", help="Routers to judge, separated by commas.")
]
PolicyOption = Annotated[str, typer.Option(help="Policies, separated by commas: top-1, top-3 …")]
ReportOption = Annotated[
    Path | None, typer.Option("--json", help="Write rows and provenance to this file.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the bootstrap.")]


@eval_app.command("mmlu-pro")
def mmlu_pro(
    data: Annotated[Path, typer.Option(help="Folder of recorded answers; see docs/data.md.")],
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    pool: Annotated[str, typer.Option(help="all, small, or ids separated by commas.")] = "all",
    router: RoutersOption = None,
    policy: PolicyOption = "top-1",
    fit_data: Annotated[
        Path | None, typer.Option(help="Folder that routers are fitted on; default: --data.")
    ] = None,
    fit_split: Annotated[str, typer.Option(help="Split that routers are fitted on.")] = "train",
    encoder: Annotated[
        str,
        typer.Option(help="auto (recorded vectors where both folders have them), or default."),
    ] = "auto",
    hide_category: Annotated[
        bool, typer.Option(help="Do not tell routers the category of the query they route.")
    ] = False,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Judge routers on recorded answers of real models to MMLU-Pro."""
    from coe.eval.datasets import load_mmlu_pro
    from coe.eval.harness import evaluate
    from coe.eval.provenance import Origin, provenance

    names = _listed(router or "category,knn")
    chosen = pool if pool in ("all", "small") else _listed(pool)
    with progress_bar("reading answers", 2) as bar:
        judged = load_mmlu_pro(data, split, chosen)
        bar.advance()
        fitted_on = load_mmlu_pro(fit_data or data, fit_split, judged.pool.ids).table
        bar.advance()
    if hide_category:
        judged = replace(judged, table=judged.table.without_categories())
    described = _encoder(encoder, fitted_on, judged.table)
    routers = _fitted(names, _listed(policy), judged.pool, fitted_on, described)
    rows = evaluate(judged, routers, fitted_on, pool, seed=seed)
    origin = Origin(
        "mmlu-pro",
        judged.digest(),
        fitted_on.digest(),
        split,
        fit_split,
        described.name,
        seed,
        tuple(sys.argv[1:]),
    )
    told = "hidden" if hide_category else "given"
    title = f"MMLU-Pro, split {split}, pool {pool}, category {told}"
    _report(rows, title, json_file, {**provenance(origin), "category": told})


@eval_app.command("zoo")
def zoo(
    config: ConfigOption = DEFAULT_CONFIG,
    split: Annotated[
        str, typer.Option(help="test; or all: ask train and test, fit on the one, judge the other.")
    ] = "test",
    router: RoutersOption = None,
    policy: PolicyOption = "top-1",
    record: Annotated[
        Path | None, typer.Option(help="Write every answer and outcome to this file (parquet).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions in flight.")] = 16,
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Ask every expert of the zoo every question, live, and judge routers on the answers."""
    from coe.cli.zoo_run import ZooOptions, judge_zoo

    names = None if router is None else _listed(router)
    options = ZooOptions(config, split, names, _listed(policy), record, concurrency, seed)
    result = judge_zoo(options, tuple(sys.argv[1:]))
    _report(
        result.rows,
        "The zoo, live, split test, category hidden",
        json_file,
        result.provenance,
        result.fields,
        failures=result.failures,
    )
    for line in result.notes:
        print(line)


def _fitted(
    names: Sequence[str],
    policies: Sequence[str],
    pool: ExpertPool,
    table: OutcomeTable,
    encoder: Encoder,
) -> dict[str, Router]:
    """Every named router under every named policy; each scorer is fitted once."""
    from coe.assembly import fit_scorer
    from coe.routers.policies import policy_named
    from coe.routing import Router

    decided = [policy_named(policy) for policy in policies]
    routers: dict[str, Router] = {}
    with progress_bar("fitting", len(names)) as bar:
        for name in names:
            scorer = fit_scorer(name, table, encoder)
            routers |= {f"{name}/{p.name}": Router(scorer, p, pool) for p in decided}
            bar.advance()
    return routers


def _encoder(named: str, fitted_on: OutcomeTable, judged: OutcomeTable) -> Encoder:
    from coe.encoders import default_encoder
    from coe.eval.vectors import recorded_encoder

    if named == "default":
        return default_encoder()
    if named not in ("auto", "recorded"):
        raise ConfigError(f"unknown encoder {named!r} (known: auto, recorded, default)")
    both_recorded = fitted_on.vectors is not None and judged.vectors is not None
    if not both_recorded and named == "auto":
        return default_encoder()
    return recorded_encoder(fitted_on, judged)


def _listed(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"expected names separated by commas, not {text!r}")
    return list(dict.fromkeys(parts))


def _report(
    rows: Sequence[Row],
    title: str,
    json_file: Path | None,
    origin: Mapping[str, object],
    fields: FieldMatrix | None = None,
    failures: Sequence[Failure] = (),
) -> None:
    from rich.console import Console

    from coe.eval.report import field_table, report_json, rows_table, write_report

    console = Console()
    if not console.is_terminal:
        # A file or a pipe has no width to fit into.
        console = Console(width=140)
    console.print(rows_table(rows, title))
    if fields is not None:
        console.print(field_table(fields, "Accuracy by field, %"))
    if json_file is not None:
        try:
            write_report(json_file, report_json(rows, origin, fields, failures))
        except OSError as error:
            raise ConfigError(f"cannot be written: {error}", file=str(json_file)) from None
        console.print(f"written to {json_file}", highlight=False)
