"""Leaderboards as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from coe.eval.leaderboard import MIX, Board, Tradeoff
from coe.eval.report import accuracy, compact_table, difference, strict_json

if TYPE_CHECKING:
    from rich.table import Table

_NUMBERS = ("apgr", "cpt_50", "cpt_80", "equal_quality_cost")


LEGEND = (
    "CPT50, CPT80: share of the way from the cheapest expert's cost to the best single's that "
    "recovers 50 and 80 % of the gap in accuracy; APGR: mean part recovered over all such "
    "shares; a coin between the two has 0.5, 0.8 and 0.5. equal: the least cost that is as "
    "good as best single, as a share of its."
)


def board_table(board: Board) -> Table:
    """Routers by falling accuracy, each with what its curve comes down to, in 80 columns."""
    shown = compact_table(f"pool {board.pool} ({board.n_experts}), category {board.category}")
    shown.add_column("router", no_wrap=True)
    headers = ["accuracy %", "vs best single"]
    headers += ["APGR", "CPT50", "CPT80", "equal"] if board.tradeoffs else []
    for header in headers:
        shown.add_column(header, justify="right", no_wrap=True)
    curves = {tradeoff.router: tradeoff for tradeoff in board.tradeoffs}
    for row in sorted(board.rows, key=lambda row: -row.accuracy):
        shown.add_row(row.router, accuracy(row), difference(row), *_cells(curves.get(row.router)))
    if MIX in curves:
        shown.add_row(MIX, "", "", *_cells(curves[MIX]))
    return shown


def board_caption(board: Board, cost: str) -> str:
    """Who the experts of the comparison are, or why there are no costs."""
    told = f"{board.rows[0].n} queries; best single: {board.best_single}"
    if board.no_tradeoff is not None:
        told = f"{told}; no costs: {board.no_tradeoff}"
    else:
        told = f"{told}; cheapest by {cost}: {board.cheapest}"
    return told if board.headroom is None else f"{told}\n{board.headroom.words}"


def boards_json(boards: Sequence[Board], provenance: Mapping[str, object]) -> dict[str, Any]:
    """The whole boards with their curves, as strict JSON values."""
    return strict_json({"boards": [asdict(board) for board in boards], "provenance": provenance})


def _cells(tradeoff: Tradeoff | None) -> list[str]:
    if tradeoff is None:
        return []
    values = (getattr(tradeoff, name) for name in _NUMBERS)
    return [f"{value:.2f}" if isfinite(value) else "-" for value in values]
