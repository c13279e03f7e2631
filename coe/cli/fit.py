"""`coe fit`: a router fitted on recorded outcomes, written where `experts.yaml` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.config import Config
    from coe.routers.artifacts import Artifact

_MAX_SHOWN = 40


OutcomesOption = Annotated[
    Path | None,
    typer.Option(help="Recorded outcomes (parquet); default: `router.outcomes` of the file."),
]
FromRunOption = Annotated[
    Path | None,
    typer.Option(help="Fit on the answers of this run of `coe eval`, in place of --outcomes."),
]
ScorerOption = Annotated[
    str | None, typer.Option(help="Scorer to fit; default: `router.scorer` of the file.")
]
SplitOption = Annotated[str, typer.Option(help="Split of the outcomes to fit on, or all.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder to write; default: `router.artifact` of the file.")
]
FromFeedbackOption = Annotated[
    bool, typer.Option("--from-feedback", help="Fit on what clients said of answers, too.")
]
FeedbackOption = Annotated[
    Path | None, typer.Option(help="Their feedback; default: `router.feedback` of the file.")
]
AnnotatorOption = Annotated[
    str | None,
    typer.Option(
        help="Expert that names each query's skills (`symbolic`): five completions a query, when "
        "fitting and for every new request."
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    typer.Option(help="File that keeps what it named, so that an interrupted fit goes on."),
]
GuardOption = Annotated[
    bool,
    typer.Option(
        "--guard/--no-guard",
        help="Use the router only if held-out queries show it better than the best single "
        "expert. Five more fits; with feedback ten.",
    ),
]


def fit(
    config: ConfigOption = DEFAULT_CONFIG,
    outcomes: OutcomesOption = None,
    from_run: FromRunOption = None,
    scorer: ScorerOption = None,
    split: SplitOption = "train",
    out: OutOption = None,
    from_feedback: FromFeedbackOption = False,
    feedback: FeedbackOption = None,
    annotator: AnnotatorOption = None,
    annotations: AnnotationsOption = None,
    guard: GuardOption = True,
) -> None:
    """Fit a router on recorded outcomes, and on feedback."""
    from coe.assembly import Fitting, configured_kind
    from coe.cli.fit_check import checked
    from coe.cli.fit_data import fit_data, run_outcomes
    from coe.config import load_config

    loaded = load_config(config)
    if scorer is not None:
        loaded = replace(loaded, router=replace(loaded.router, scorer=scorer))
    configured_kind(loaded)  # a wrong name is told before any data is read
    if from_feedback and feedback is None:
        feedback = _configured_feedback(loaded)
    if from_run is not None:
        outcomes = run_outcomes(from_run, outcomes)
    data = fit_data(loaded, outcomes or loaded.router.outcomes, split, feedback)
    fitting = Fitting(loaded, data.table, annotator, annotations)
    artifact = fitting.artifact()
    verdict, lines = checked(fitting, data) if guard else (None, ["guard: not asked for"])
    folder = _saved(artifact.guarded(None if verdict is None else verdict.manifest()), out, loaded)
    manifest = artifact.manifest
    print(f"{manifest.scorer} fitted on {manifest.n_queries} queries of {data.source}: {folder}")
    for line in (*_settings(artifact), *data.notes, *lines):
        print(f"  {line}")


def _configured_feedback(config: Config) -> Path:
    if config.router.feedback is None:
        raise ConfigError(
            "no file of feedback; name one as `feedback` here, or pass --feedback FILE",
            file=str(config.file),
            key="router",
        )
    return config.router.feedback


def _saved(artifact: Artifact, out: Path | None, config: Config) -> Path:
    folder = out or config.router.artifact
    try:
        artifact.save(folder)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error}", file=str(folder)) from None
    return folder


def _settings(artifact: Artifact) -> list[str]:
    """The settings that are one short value, and the policy found; manifest.json has them all."""
    shown = [
        f"{name} = {value}"
        for name, value in artifact.manifest.settings.items()
        if isinstance(value, str | int | float) and len(str(value)) <= _MAX_SHOWN
    ]
    if "policy" in artifact.parts:
        found = artifact.parts["policy"].manifest.settings
        shown.append(f"policy {found['given']} = {found['tuned']}")
    return shown
