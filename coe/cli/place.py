"""`coe place` and `coe analyze`: where experts should live, and what more memory would save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coe.cli.options import DEFAULT_CONFIG, ConfigOption
from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.scheduling import Site

TraceArgument = Annotated[
    Path, typer.Argument(help='Requests, one a line: {"expert": "math", "time": 12.5}.')
]


def place(
    trace: TraceArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Longest search for a proof; 0 takes the quick search.")
    ] = 10.0,
    replicas: Annotated[
        int, typer.Option(min=0, help="Most further copies of experts much in demand.")
    ] = 0,
) -> None:
    """Print which expert should live on which device, from what a trace asked for."""
    from coe.scheduling.expert_trace import read_trace
    from coe.scheduling.placement import Demand
    from coe.scheduling.placing import PlaceRules, place

    site, elsewhere = _site(config)
    demand = Demand.of(read_trace(trace, elsewhere))
    found = place(site, demand, PlaceRules(seconds, replicas))
    _print(found.rows())
    proven = "proven best" if found.gap == 0 else f"at most {found.gap:.1%} above the best"
    print(f"{found.swap_s:.0f} s an hour go to swapping; {proven}")


def analyze(
    trace: TraceArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    segment: Annotated[int, typer.Option(min=1, help="Requests in a segment.")] = 256,
) -> None:
    """Print what a trace would load with more or less memory, and how local it is."""
    from coe.scheduling.expert_trace import read_trace
    from coe.scheduling.locality import analyze

    site, elsewhere = _site(config)
    tenants = {tenant.expert_id: tenant for tenant in site.tenants}
    gib = {id_: tenant.gib for id_, tenant in tenants.items()}
    load_s = {id_: tenant.costs.load_s for id_, tenant in tenants.items()}
    found = analyze(read_trace(trace, elsewhere), gib, load_s, segment=segment)
    print(f"{found.n_requests} requests for {found.n_experts} experts")
    _print(found.rows())
    print(f"requests that hit the best experts of a segment of {segment}")
    _print(found.segment_rows())


def _site(config: Path) -> tuple[Site, frozenset[str]]:
    """Where experts are hosted, and those of the pool that are not."""
    from coe.assembly.hosting import site_of
    from coe.config import load_config

    loaded = load_config(config)
    site = site_of(loaded)
    if site is None:
        raise ConfigError(
            "hosts no expert: none is local, of kind vllm, or says what memory it takes",
            file=str(config),
            key="experts",
        )
    return site, frozenset(loaded.pool.ids) - {tenant.expert_id for tenant in site.tenants}


def _print(rows: Sequence[Sequence[str]]) -> None:
    """A table, its head first; the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        print("  ".join([first, *(cell.strip().rjust(len(cell)) for cell in others)]).rstrip())
