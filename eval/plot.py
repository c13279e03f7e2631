"""Cost against quality as a picture. matplotlib is needed here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coe.errors import ConfigError, install_hint
from coe.eval.files import replace_file
from coe.eval.leaderboard import Board

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = (".png", ".svg", ".pdf")


def check_plot_file(file: Path) -> None:
    """Raises `ConfigError` for an ending that is no picture's, or without matplotlib."""
    if file.suffix not in _ENDINGS:
        raise ConfigError(f"is no picture; end it in {', '.join(_ENDINGS)}", file=str(file))
    _figure_class()


def plot_boards(boards: Sequence[Board], cost: str, file: Path) -> None:
    """One panel for each board that has curves. Raises `ConfigError` if none has."""
    drawn = [board for board in boards if board.tradeoffs]
    if not drawn:
        raise ConfigError(f"no pool of this run has known costs to draw; {boards[0].no_tradeoff}")
    n_columns = min(2, len(drawn))
    n_rows = -(-len(drawn) // n_columns)
    figure = _figure_class()(figsize=(8.0 * n_columns, 6.0 * n_rows), layout="constrained")
    for place, board in enumerate(drawn, start=1):
        _draw(figure.add_subplot(n_rows, n_columns, place), board, cost)
    replace_file(file, lambda part: figure.savefig(part, format=file.suffix[1:], dpi=100))


def _draw(axes: Any, board: Board, cost: str) -> None:
    costs, quality = zip(*board.experts.values(), strict=True)
    axes.scatter(costs, [100 * q for q in quality], s=14, c="0.6", label="experts", zorder=1)
    for i, tradeoff in enumerate(board.tradeoffs):
        percents = [100 * quality for quality in tradeoff.quality]
        axes.plot(tradeoff.costs, percents, label=tradeoff.router, linewidth=1.2, **_style(i))
    level = 100 * board.experts[board.best_single][1]
    axes.axhline(level, color="0.2", linewidth=0.8, linestyle=":")
    place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
    axes.annotate(board.best_single, (0.99, level), **place)
    # A linear axis: only there is a mix of two experts the straight line that it is drawn as.
    axes.set_xlim(*_around([cost for tradeoff in board.tradeoffs for cost in tradeoff.costs]))
    axes.set_xlabel(f"{cost}, mean of a query")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"pool {board.pool}, category {board.category}")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.25)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range with some room at both ends; dearer experts that nobody routes to are left out."""
    room = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _style(place: int) -> dict[str, Any]:
    """The mix of experts comes first; of routers there are more than there are colours."""
    if place == 0:
        return {"color": "0.4", "linestyle": "--"}
    return {"color": f"C{place % 10}", "marker": "." if place <= 10 else "x", "markersize": 4}


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"a picture needs matplotlib: {install_hint('eval')}") from None
    return Figure
