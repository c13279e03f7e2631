from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

import coe
from coe.eval.harness import REFERENCE, Row
from coe.eval.live import Failure
from coe.eval.provenance import Origin, provenance
from coe.eval.report import field_matrix, field_table, report_json, rows_table, write_report
from coe.outcomes import OutcomeTable

NAN = float("nan")
_ROW = Row(
    router="knn",
    policy="top-1",
    pool="small",
    n=6609,
    not_measured=0,
    accuracy=0.46021,
    low=0.448,
    high=0.471,
    diff=-0.0002,
    diff_low=-0.01,
    diff_high=0.027,
    regret=0.36,
    calls=1.0,
    active_params_b=7.5,
    cost_usd=NAN,
    shares={"a": 1.0, "b": 0.0},
)
_ORIGIN = Origin(
    benchmark="mmlu-pro",
    data_digest="abc",
    fit_digest="def",
    split="test",
    fit_split="train",
    encoder=None,
    seed=0,
    arguments=("eval", "mmlu-pro"),
)


def _text(table: Table) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def _cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if name in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_table_is_in_per_cent_with_intervals() -> None:
    assert _cells(_text(rows_table([_ROW])), "knn") == [
        "knn",
        "top-1",
        "6609",
        "46.0 [44.8, 47.1]",
        "+0.0 [-1.0, +2.7]",
        "1.00",
        "7.5",
        "-",
    ]


def test_queries_left_out_are_shown_where_there_are_any() -> None:
    assert "not measured" not in _text(rows_table([_ROW]))
    text = _text(rows_table([_ROW, replace(_ROW, router="gap", not_measured=3)]))
    assert _cells(text, "gap")[2:4] == ["6609", "3"]


def test_best_single_expert_is_named() -> None:
    best = replace(_ROW, router="best-single", policy=REFERENCE)
    assert "best-single (a)" in _text(rows_table([best]))
    assert "knn (a)" not in _text(rows_table([_ROW]))


def test_interval_that_is_not_known_is_not_shown() -> None:
    one = replace(_ROW, low=NAN, high=NAN, diff=NAN, diff_low=NAN, diff_high=NAN)
    assert _cells(_text(rows_table([one])), "knn")[3:5] == ["46.0", "-"]


def test_fields_are_experts_by_categories(table: OutcomeTable) -> None:
    matrix = field_matrix(table)
    assert (matrix.fields, matrix.counts) == (("law", "math"), (2, 1))
    np.testing.assert_array_equal(matrix.means, [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0]])
    text = _text(field_table(matrix))
    assert text.index("law") < text.index("math")
    assert _cells(text, " b ") == ["b", "50.0", "0.0"]


def test_field_that_was_not_measured_is_no_zero(table: OutcomeTable) -> None:
    scores = table.scores.copy()
    scores[2, 1] = NAN
    matrix = field_matrix(replace(table, scores=scores))
    assert np.isnan(matrix.means[1, 1])
    assert _cells(_text(field_table(matrix)), " b ") == ["b", "50.0", "-"]


def test_report_is_strict_json_in_fractions(table: OutcomeTable, tmp_path: Path) -> None:
    file = tmp_path / "out" / "report.json"
    failures = [Failure("q1", ("a",), "died")]
    write_report(file, report_json([_ROW], {"seed": 0}, field_matrix(table), failures))

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    report = json.loads(file.read_text("utf-8"), parse_constant=refuse)
    row = report["rows"][0]
    assert (row["accuracy"], row["cost_usd"], row["pool"]) == (0.46021, None, "small")
    assert {
        *("router", "policy", "pool", "n", "accuracy", "low", "high", "diff", "diff_low"),
        *("diff_high", "calls", "active_params_b", "cost_usd"),
    } <= set(row)
    assert report["provenance"] == {"seed": 0}
    assert report["fields"]["names"] == ["law", "math"]
    assert report["fields"]["experts"]["a"] == [0.5, 0.0]
    assert report["failures"] == [{"query_id": "q1", "experts": ["a"], "error": "died"}]


def test_provenance_names_data_code_and_arguments() -> None:
    named = provenance(_ORIGIN)
    versions = named["versions"]
    assert isinstance(versions, dict)
    assert versions["coe"] == coe.__version__
    assert named["arguments"] == ["eval", "mmlu-pro"]
    assert named["data_digest"] == "abc"
    json.dumps(named, allow_nan=False)


def test_provenance_has_the_commit_of_the_checkout(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("this is no git checkout")
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    named = provenance(_ORIGIN)
    assert named["commit"] == head.stdout.strip()
    assert isinstance(named["dirty"], bool)


def test_provenance_has_no_path_of_this_machine(repository: Path) -> None:
    assert str(repository) not in json.dumps(provenance(_ORIGIN))
