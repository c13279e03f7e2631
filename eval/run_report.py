"""A finished live run as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from coe.eval.judges.winrates import WinRate
from coe.eval.report import compact_table
from coe.eval.runs.comparing import Contrast
from coe.eval.runs.recording import Standing

if TYPE_CHECKING:
    from rich.table import Table

_ROUTED = "routed"


def standings_table(standings: Sequence[Standing], title: str) -> Table:
    """What came out of routing and each expert that answered. Columns without numbers are left
    out.
    """
    columns = {
        "accuracy %": [_accuracy(each) for each in standings],
        "own rule %": [_number(100 * _or_nan(each.by_rule), ".1f") for each in standings],
        "n": [str(each.n) for each in standings],
        "unreadable": [_count(each.n_unreadable) for each in standings],
        "failed": [_count(each.n_failed) for each in standings],
        "tokens": [_count(each.prompt_tokens + each.completion_tokens) for each in standings],
        "s": [_number(each.e2el_s, ".2f") for each in standings],
        "J": [_number(each.energy_j, ".3g") for each in standings],
        "$": [_number(each.cost_usd, ".3g") for each in standings],
    }
    shown = compact_table(title)
    shown.add_column("", no_wrap=True)
    told = {header: cells for header, cells in columns.items() if set(cells) != {"-"}}
    for header in told:
        shown.add_column(header, justify="right", no_wrap=True)
    for i, each in enumerate(standings):
        shown.add_row(each.name or _ROUTED, *(cells[i] for cells in told.values()))
    return shown


def win_rates_table(rates: Sequence[WinRate]) -> Table:
    """Against the baseline; "same style": with length and markdown held equal."""
    shown = compact_table("Win rates against the baseline, %")
    shown.add_column("", no_wrap=True)
    for header in ("won", "same style", "n", "both orders agree"):
        shown.add_column(header, justify="right", no_wrap=True)
    for rate in rates:
        bounds = f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" if isfinite(rate.low) else ""
        shown.add_row(
            rate.subject or _ROUTED,
            _number(100 * rate.raw, ".1f") + bounds,
            _number(100 * rate.style_controlled, ".1f"),
            str(rate.n),
            _number(100 * rate.consistent, ".1f"),
        )
    return shown


def contrasts_table(contrasts: Sequence[Contrast]) -> Table:
    """First run, second run, and the difference paired by question."""
    shown = compact_table(None)
    shown.add_column("", no_wrap=True)
    for header in ("first %", "second %", "difference", "n", "better", "worse"):
        shown.add_column(header, justify="right", no_wrap=True)
    for each in contrasts:
        low, high = 100 * each.low, 100 * each.high
        bounds = f" [{low:+.1f}, {high:+.1f}]" if isfinite(each.low) else ""
        shown.add_row(
            each.subject,
            _number(100 * each.first, ".1f"),
            _number(100 * each.second, ".1f"),
            f"{100 * each.diff:+.1f}{bounds}",
            *map(str, (each.n, each.n_better, each.n_worse)),
        )
    return shown


def _accuracy(standing: Standing) -> str:
    if not isfinite(standing.low):
        return _number(100 * standing.accuracy, ".1f")
    low, high = 100 * standing.low, 100 * standing.high
    return f"{100 * standing.accuracy:.1f} [{low:.1f}, {high:.1f}]"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _count(n: int) -> str:
    return str(n) if n else "-"


def _number(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else "-"
