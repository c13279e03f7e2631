"""`coe fit`: a router fitted on recorded outcomes, written where `experts.yaml` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.errors import ConfigError


def fit(
    config: ConfigOption = DEFAULT_CONFIG,
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Recorded outcomes (parquet); default: `router.outcomes` of the file."),
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Scorer to fit; default: `router.scorer` of the file.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the outcomes to fit on, or all.")] = "train",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: `router.artifact` of the file.")
    ] = None,
) -> None:
    """Fit a router on recorded outcomes."""
    from coe.assembly import configured_kind, fit_artifact
    from coe.config import load_config
    from coe.eval.datasets import load_outcomes

    loaded = load_config(config)
    if scorer is not None:
        loaded = replace(loaded, router=replace(loaded.router, scorer=scorer))
    configured_kind(loaded)  # a wrong name is told before any data is read
    source = outcomes or loaded.router.outcomes
    if source is None:
        raise ConfigError(
            "no outcomes to fit on; pass --outcomes or set it", file=str(config), key="router"
        )
    artifact = fit_artifact(loaded, load_outcomes(source, None if split == "all" else split))
    folder = out or loaded.router.artifact
    try:
        artifact.save(folder)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", file=str(folder)) from None
    manifest = artifact.manifest
    print(f"{manifest.scorer} fitted on {manifest.n_queries} queries of {source}: {folder}")
    for name, value in manifest.settings.items():
        print(f"  {name} = {value}")
