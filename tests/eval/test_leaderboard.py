from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from coe.errors import ConfigError
from coe.eval.board_report import board_caption, board_table, boards_json
from coe.eval.costs import call_costs
from coe.eval.datasets import RecordedBenchmark
from coe.eval.leaderboard import MIX, Board, leaderboard
from coe.eval.plot import check_plot_file, plot_boards
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import FloatArray, OutcomeTable
from coe.types import Query

SCORES = {
    "knowing": np.array([[0.5, 0.9], [0.8, 0.1], [0.5, 0.9], [0.5, 0.9]]),
    "blind": np.tile([0.1, 0.2], (4, 1)),
}


def _table(prefix: str, scores: list[list[float]], costs: FloatArray | None) -> OutcomeTable:
    queries = tuple(
        Query(f"{prefix} {i}", f"{prefix}{i}", "law" if i % 2 else "math") for i in range(4)
    )
    return OutcomeTable(queries, ("cheap", "dear"), np.array(scores), cost_usd=costs)


@pytest.fixture
def fitted_on() -> OutcomeTable:
    """The dear expert is best on all and on math, the cheap one on law."""
    costs = np.tile([1.0, 4.0], (4, 1))
    return _table("train", [[0, 1], [1, 0], [0, 1], [1, 1]], costs)


@pytest.fixture
def benchmark() -> RecordedBenchmark:
    """The cheap expert is right on one query of four, the dear one on three others."""
    costs = np.array([[1.0, 4.0], [1.0, 4.0], [1.0, 4.0], [1.0, 8.0]])
    spec = ScriptedSpec()
    pool = ExpertPool(
        (
            Expert("cheap", spec, params_active_b=2.0),
            Expert("dear", spec, params_active_b=10.0),
        )
    )
    return RecordedBenchmark(_table("test", [[0, 1], [1, 0], [0, 1], [0, 1]], costs), pool)


@pytest.fixture
def board(benchmark: RecordedBenchmark, fitted_on: OutcomeTable) -> Board:
    return leaderboard(benchmark, fitted_on, SCORES, ("mine", "given"), "params_active_b")


def test_board_has_every_router_and_reference(board: Board) -> None:
    accuracies = {row.router: row.accuracy for row in board.rows}
    assert accuracies == {
        "random": 0.5,
        "best-single": 0.75,
        "knowing": 1.0,
        "blind": 0.75,
        "dataset-table": 0.75,
        "dataset-oracle": 0.75,
        "oracle": 1.0,
    }
    assert (board.best_single, board.cheapest, board.n_experts) == ("dear", "cheap", 2)


def test_board_trades_cost_against_quality(board: Board) -> None:
    tradeoffs = {each.router: each for each in board.tradeoffs}
    # The three queries of the dear expert are worth the same, so it is all or none: from cost 2
    # and 25 % straight to cost 8 and 100 %, past the best single's 75 % at cost 6.
    knowing = tradeoffs["knowing"]
    assert (knowing.costs, knowing.quality) == ((2.0, 8.0), (0.25, 1.0))
    assert knowing.cpt_50 == pytest.approx(0.25)
    assert knowing.cpt_80 == pytest.approx(0.4)
    assert knowing.equal_quality_cost == pytest.approx(0.6)
    # PGR rises to 1.5 at share 0.75 and stays there.
    assert knowing.apgr == pytest.approx(0.75 * 0.75 + 0.25 * 1.5)
    for router in ("blind", MIX):
        assert tradeoffs[router].apgr == pytest.approx(0.5)
        assert tradeoffs[router].equal_quality_cost == pytest.approx(1.0)
    assert board.experts == {"cheap": (2.0, 0.25), "dear": (10.0, 0.75)}


def test_dollars_are_those_spent_and_decisions_those_expected(
    benchmark: RecordedBenchmark, fitted_on: OutcomeTable
) -> None:
    costs = call_costs("usd", benchmark, fitted_on)
    np.testing.assert_array_equal(costs.expected, [1.0, 4.0])
    np.testing.assert_array_equal(costs.spent.mean(axis=0), [1.0, 5.0])
    board = leaderboard(benchmark, fitted_on, SCORES, ("mine", "given"), "usd")
    assert board.experts["dear"] == (5.0, 0.75)


def test_board_without_known_costs_says_whose_is_missing(
    benchmark: RecordedBenchmark, fitted_on: OutcomeTable
) -> None:
    board = leaderboard(benchmark, fitted_on, SCORES, ("mine", "given"), "usd_per_mtok")
    assert board.tradeoffs == ()
    assert board.no_tradeoff is not None
    assert "usd_per_mtok of expert 'cheap' is not known" in board.no_tradeoff
    assert "no costs: usd_per_mtok" in board_caption(board, "usd_per_mtok")
    assert "APGR" not in _text(board)


def test_dollars_that_were_not_recorded_name_what_lacks_them(
    benchmark: RecordedBenchmark, fitted_on: OutcomeTable
) -> None:
    unpriced = replace(fitted_on, cost_usd=np.tile([1.0, np.nan], (4, 1)))
    with pytest.raises(ConfigError, match="what answers of expert 'dear' cost was not recorded"):
        call_costs("usd", benchmark, unpriced)
    # Training costs are known of both experts, so neither is at fault.
    judged = RecordedBenchmark(replace(benchmark.table, cost_usd=None), benchmark.pool)
    with pytest.raises(ConfigError, match="not for the queries to judge on") as raised:
        call_costs("usd", judged, fitted_on)
    assert "'cheap'" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"unknown cost 'uds'.*did you mean 'usd'"):
        call_costs("uds", benchmark, fitted_on)


def _text(board: Board) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(board_table(board))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_board_fits_in_80_columns_best_router_first(board: Board) -> None:
    text = _text(board)
    assert "…" not in text
    lines = text.splitlines()
    first = [line.split()[0] for line in lines if line.startswith(("knowing", "blind", "random"))]
    assert first == ["knowing", "blind", "random"]
    knowing = next(line for line in lines if line.startswith("knowing"))
    assert knowing.split()[-4:] == ["0.94", "0.25", "0.40", "0.60"]
    told = board_caption(board, "params_active_b")
    assert board.headroom is not None
    assert told.splitlines() == [
        "4 queries; best single: dear; cheapest by params_active_b: cheap",
        board.headroom.words,
    ]


def test_boards_are_strict_json(board: Board) -> None:
    report = json.loads(json.dumps(boards_json([board], {"seed": 0}), allow_nan=False))
    kept = report["boards"][0]
    assert kept["tradeoffs"][1]["quality"] == [0.25, 1.0]
    assert {row["router"] for row in kept["rows"]} >= {"knowing", "oracle"}
    assert report["provenance"] == {"seed": 0}


def test_picture_is_drawn(board: Board, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "curves.png"
    plot_boards([board], "params_active_b", file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_picture_needs_an_ending_and_curves(
    benchmark: RecordedBenchmark, fitted_on: OutcomeTable, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"end it in \.png"):
        check_plot_file(tmp_path / "curves.jpeg")
    board = leaderboard(benchmark, fitted_on, SCORES, ("mine", "given"), "usd_per_mtok")
    with pytest.raises(ConfigError, match="no pool of this run has known costs to draw"):
        plot_boards([board], "usd_per_mtok", tmp_path / "curves.png")
