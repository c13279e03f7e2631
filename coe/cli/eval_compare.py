"""`coe eval compare`: two runs side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from coe.cli.eval_options import ReportOption, SeedOption


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one.")],
    json_file: ReportOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare two runs of `coe eval`, question by question."""
    from coe.cli.eval_output import Output
    from coe.eval.runs.comparing import compare_runs
    from coe.eval.runs.folder import RunFolder

    made = compare_runs(RunFolder(first), RunFolder(second), seed)
    out = Output()
    out.contrasts(made.contrasts)
    for key, (before, after) in made.changed.items():
        out.line(f"{key}: {before} → {after}")
    if json_file is not None:
        out.json(json_file, asdict(made))
