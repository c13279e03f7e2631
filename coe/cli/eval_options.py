"""Options that the benchmarks of `coe eval` share, and how lists of names are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.routers.policies import PolicySpec

DataOption = Annotated[Path, typer.Option(help="Folder of recorded answers; see docs/data.md.")]
MaybeDataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of recorded answers, or of questions; see docs/data.md."),
]
SplitOption = Annotated[str, typer.Option(help="Split to judge on.")]
PoolOption = Annotated[
    str | None,
    typer.Option(
        help="all, small (open weights, at most 10 B), open (active parameters known), priced, or "
        "ids separated by commas; several names for --leaderboard. Default: all; of "
        "--leaderboard: all,small,open.",
        show_default=False,
    ),
]
RoutersOption = Annotated[
    str | None, typer.Option("--router", help="Routers to judge, separated by commas.")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        help="Policies, separated by commas: top-1, top-3, vote:k=3, fallback:k=3, "
        "adaptive-vote:k=10:calls=3, priced-vote:cost=params_active_b:budget=20 … "
        "Default: top-1; of the router that a configuration serves, its own.",
        show_default=False,
    ),
]
AggregatorOption = Annotated[
    str | None,
    typer.Option(
        help="How several answers become one: majority, weighted, learned, first. "
        "Default: majority; of the router that a configuration serves, its own.",
        show_default=False,
    ),
]
FitDataOption = Annotated[
    Path | None, typer.Option(help="Folder that routers are fitted on; default: --data.")
]
FitSplitOption = Annotated[str, typer.Option(help="Split that routers are fitted on.")]
EncoderOption = Annotated[
    str, typer.Option(help="auto (recorded vectors where both folders have them), or default.")
]
HideOption = Annotated[
    bool,
    typer.Option("--hide-category", help="Do not tell routers the category of what they route."),
]
LeaderboardOption = Annotated[
    bool,
    typer.Option(
        "--leaderboard", help="Compare all routers on several pools, and their costs at top-1."
    ),
]
CostOption = Annotated[
    str | None,
    typer.Option(
        help="Cost that --leaderboard trades against quality, or usd. Default: params_active_b.",
        show_default=False,
    ),
]
PlotOption = Annotated[
    Path | None, typer.Option(help="With --leaderboard: picture of cost against quality.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--json", help="Write rows and provenance to this file.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the bootstrap.")]


def listed(text: str) -> list[str]:
    """Names separated by commas, each once."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"expected names separated by commas, not {text!r}")
    return list(dict.fromkeys(parts))


def specs_of(texts: Sequence[str]) -> list[PolicySpec]:
    """Policies as typed, every name and type checked before anything is fitted."""
    from coe.routers.policies import PolicySpec, check_spec

    specs = [PolicySpec.parsed(text) for text in texts]
    for spec in specs:
        check_spec(spec)
    return specs


def check_routers(names: Sequence[str]) -> None:
    """Raises `ConfigError` with the nearest known name."""
    from coe.assembly import ROUTERS, scorer_kind

    for name in names:
        if name not in ROUTERS:
            scorer_kind(name)
