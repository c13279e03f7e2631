"""Runs as tables for people."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console
from rich.table import Table

from coe.eval.judges.winrates import WinRate
from coe.eval.run_report import contrasts_table, standings_table, win_rates_table
from coe.eval.runs.comparing import Contrast
from coe.eval.runs.recording import Standing

NAN = float("nan")
ROUTED = Standing("", 50, 0.84, 0.7, 0.9, None, 0, 1, 1000, 200, 1.5, NAN, NAN)


def _lines(table: Table) -> list[list[str]]:
    console = Console(file=StringIO(), width=100)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_standings_table_is_in_per_cent_and_leaves_out_what_nobody_knows() -> None:
    lone = replace(ROUTED, name="a", accuracy=0.5, low=NAN, n_unreadable=3, energy_j=12.34)
    _, header, _, routed, expert = _lines(standings_table([ROUTED, lone], "title"))
    assert header == ["accuracy", "%", "n", "unreadable", "failed", "tokens", "s", "J"]
    assert routed == ["routed", "84.0", "[70.0,", "90.0]", "50", "-", "1", "1200", "1.50", "-"]
    assert expert == ["a", "50.0", "50", "3", "1", "1200", "1.50", "12.3"]


def test_win_rates_table_names_what_was_routed() -> None:
    rate = WinRate("", 40, 0.625, 0.5, 0.75, 0.55, 0.9)
    *_, row = _lines(win_rates_table([rate]))
    assert row == ["routed", "62.5", "[50.0,", "75.0]", "55.0", "40", "90.0"]


def test_contrasts_table_gives_signs() -> None:
    contrast = Contrast("routed", 40, 0.5, 0.6, 0.1, -0.05, 0.25, 8, 4)
    *_, row = _lines(contrasts_table([contrast]))
    assert row == ["routed", "50.0", "60.0", "+10.0", "[-5.0,", "+25.0]", "40", "8", "4"]
