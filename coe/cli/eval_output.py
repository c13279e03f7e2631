"""What `coe eval` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from coe.errors import ConfigError
from coe.eval.board_report import LEGEND, board_caption, board_table, boards_json
from coe.eval.harness import Row
from coe.eval.judges.winrates import WinRate
from coe.eval.leaderboard import Board
from coe.eval.live import Failure
from coe.eval.report import (
    FieldMatrix,
    field_table,
    report_json,
    rows_caption,
    rows_table,
    strict_json,
    write_report,
)
from coe.eval.run_report import contrasts_table, standings_table, win_rates_table
from coe.eval.runs.comparing import Contrast
from coe.eval.runs.recording import Standing

_WIDTH = 140
"""Of a file or a pipe, which has none to fit into."""


class Output:
    """The terminal, with files where the user named them."""

    def __init__(self) -> None:
        console = Console()
        self._console = console if console.is_terminal else Console(width=_WIDTH)

    def line(self, text: str) -> None:
        """Text that a terminal wraps between words and a file keeps as it is."""
        in_file = not self._console.is_terminal
        self._console.print(text, highlight=False, markup=False, soft_wrap=in_file)

    def rows(self, rows: Sequence[Row], title: str) -> None:
        self._console.print(rows_table(rows, title))
        self.line(rows_caption(rows))

    def fields(self, fields: FieldMatrix) -> None:
        self._console.print(field_table(fields, "Accuracy by field, %"))

    def standings(self, standings: Sequence[Standing], title: str) -> None:
        self._console.print(standings_table(standings, title))

    def win_rates(self, rates: Sequence[WinRate]) -> None:
        self._console.print(win_rates_table(rates))

    def contrasts(self, contrasts: Sequence[Contrast]) -> None:
        self._console.print(contrasts_table(contrasts))

    def json(self, file: Path, report: Mapping[str, Any]) -> None:
        self._write(file, strict_json(report))

    def boards(self, boards: Sequence[Board], cost: str) -> None:
        for board in boards:
            self._console.print(board_table(board))
            self.line(board_caption(board, cost) + "\n")
        if any(board.tradeoffs for board in boards):
            self.line(LEGEND)

    def report_json(
        self,
        file: Path | None,
        rows: Sequence[Row],
        origin: Mapping[str, object],
        fields: FieldMatrix | None = None,
        failures: Sequence[Failure] = (),
    ) -> None:
        if file is not None:
            self._write(file, report_json(rows, origin, fields, failures))

    def boards_json(
        self, file: Path | None, boards: Sequence[Board], origin: Mapping[str, object]
    ) -> None:
        if file is not None:
            self._write(file, boards_json(boards, origin))

    def _write(self, file: Path, report: Mapping[str, Any]) -> None:
        try:
            write_report(file, report)
        except OSError as error:
            raise ConfigError(f"cannot be written: {error}", file=str(file)) from None
        self.line(f"written to {file}")
