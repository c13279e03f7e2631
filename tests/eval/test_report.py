from __future__ import annotations

import json
import re
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
from coe.eval.report import (
    field_matrix,
    field_table,
    report_json,
    rows_caption,
    rows_table,
    write_report,
)
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
    console = Console(file=StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def _cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.lstrip().startswith(name))
    return re.findall(r"[+-]?[\d.]+ \[[^\]]*\]|\S+", line)


def test_table_is_in_per_cent_with_intervals() -> None:
    assert _cells(_text(rows_table([_ROW])), "knn") == [
        "knn",
        "top-1",
        "46.0 [44.8, 47.1]",
        "+0.0 [-1.0, +2.7]",
        "1.00",
        "7.5",
    ]


def test_columns_without_a_number_are_left_out() -> None:
    assert "$/1000" not in _text(rows_table([_ROW]))
    priced = replace(_ROW, router="priced", cost_usd=0.0012)
    text = _text(rows_table([_ROW, priced]))
    assert _cells(text, "priced")[-1] == "1.2"
    assert _cells(text, "knn")[-1] == "-"


def test_count_that_all_rows_share_is_in_the_caption() -> None:
    assert rows_caption([_ROW, _ROW]) == "6609 queries, 95 % intervals"
    rows = [_ROW, replace(_ROW, router="gap", n=6600, not_measured=9)]
    assert "left out" in rows_caption(rows)
    text = _text(rows_table(rows))
    assert text.splitlines()[-1].split()[-3:] == ["6600", "1.00", "7.5"]


def test_caption_names_the_best_single_expert_and_the_vote() -> None:
    best = replace(_ROW, router="best-single", policy=REFERENCE)
    voted = replace(_ROW, policy="top-3", aggregator="learned")
    told = rows_caption([best, voted])
    assert told.endswith("several answers: learned; best single: a")
    assert REFERENCE not in _text(rows_table([best, voted]))


def test_table_fits_in_80_columns_whatever_the_policy_is() -> None:
    rows = [
        replace(_ROW, router="factorization", policy="priced-vote:cost=params_active_b:budget=20"),
        replace(_ROW, router="best-single", policy=REFERENCE, n=6600, active_params_b=NAN),
        replace(_ROW, router="random", policy=REFERENCE, diff=-0.3, diff_low=-0.31),
    ]
    text = _text(rows_table(rows, "a title"))
    assert "…" not in text
    assert "46.0 [44.8, 47.1]" in text
    assert "+0.0 [-1.0, +2.7]" in text
    assert "factorization" in text
    assert "budget=20" in text


def test_interval_that_is_not_known_is_not_shown() -> None:
    one = replace(_ROW, low=NAN, high=NAN, diff=NAN, diff_low=NAN, diff_high=NAN)
    assert _cells(_text(rows_table([one])), "knn")[2:4] == ["46.0", "-"]


def _fields(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.split()[:1] == [name])
    return line.split()


def test_fields_are_experts_by_categories(table: OutcomeTable) -> None:
    matrix = field_matrix(table)
    assert (matrix.fields, matrix.counts) == (("law", "math"), (2, 1))
    np.testing.assert_array_equal(matrix.means, [[0.5, 0.0], [0.5, 0.0], [0.5, 0.0]])
    text = _text(field_table(matrix))
    assert text.index("law") < text.index("math")
    assert _fields(text, "b") == ["b", "50.0", "0.0"]


def test_field_that_was_not_measured_is_no_zero(table: OutcomeTable) -> None:
    scores = table.scores.copy()
    scores[2, 1] = NAN
    matrix = field_matrix(replace(table, scores=scores))
    assert np.isnan(matrix.means[1, 1])
    assert _fields(_text(field_table(matrix)), "b") == ["b", "50.0", "-"]


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
