"""Results as tables for people, in per cent, and as JSON for programs, in fractions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coe.eval.files import replace_file
from coe.eval.harness import REFERENCE, Row
from coe.eval.live import Failure
from coe.outcomes import FloatArray, OutcomeTable

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, eq=False)
class FieldMatrix:
    """Each expert's mean score in each field."""

    fields: tuple[str, ...]
    expert_ids: tuple[str, ...]
    means: FloatArray
    """(n_experts, n_fields); NaN where nothing was measured."""
    counts: tuple[int, ...]
    """Queries of each field."""


def field_matrix(table: OutcomeTable) -> FieldMatrix:
    """By category of the query; queries without one are left out."""
    about = np.array([query.category for query in table.queries], dtype=object)
    by_field = [table.rows(about == field) for field in table.categories]
    means = [part.means() for part in by_field]
    return FieldMatrix(
        table.categories,
        table.expert_ids,
        np.stack(means, axis=1) if means else np.empty((len(table.expert_ids), 0)),
        tuple(part.n_queries for part in by_field),
    )


def rows_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The results, accuracy in per cent with 95 % intervals, in 80 columns.

    Columns without any number are left out; what all rows share is in `rows_caption`.
    """
    columns = [
        _Column("calls", [_number(row.calls, ".2f") for row in rows]),
        _Column("active B", [_number(row.active_params_b, ".3g") for row in rows]),
        _Column("$/1000", [_number(row.cost_usd * 1000, ".3g") for row in rows]),
    ]
    if len({row.n for row in rows}) > 1:
        columns.insert(0, _Column("n", [str(row.n) for row in rows]))
    shown = compact_table(title)
    shown.add_column("router", no_wrap=True)
    shown.add_column("policy", overflow="fold", min_width=9)
    measured = [column for column in columns if set(column.cells) != {"-"}]
    for header in ("accuracy %", "vs best single", *(column.header for column in measured)):
        shown.add_column(header, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = (column.cells[i] for column in measured)
        shown.add_row(row.router, _policy(row), accuracy(row), difference(row), *cells)
    return shown


def rows_caption(rows: Sequence[Row]) -> str:
    """What every row shares, and who the best single expert is."""
    told = []
    counts = {row.n for row in rows}
    if len(counts) == 1:
        told.append(f"{counts.pop()} queries, 95 % intervals")
    else:
        told.append("95 % intervals; queries that no expert called was measured on are left out")
    votes = {row.aggregator for row in rows if row.aggregator}
    if votes:
        told.append(f"several answers: {', '.join(sorted(votes))}")
    best = next((row for row in rows if row.router == "best-single"), None)
    only = [id_ for id_, share in best.shares.items() if share == 1.0] if best else []
    if only:
        told.append(f"best single: {only[0]}")
    return "; ".join(told)


def compact_table(title: str | None) -> Table:
    """A table without a frame, one space between columns that must all fit in 80."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,  # the box puts the space between
    )


def accuracy(row: Row) -> str:
    """Per cent, with the interval where there is one."""
    bounds = _bounds(row.low, row.high, ".1f")
    return f"{_per_cent(row.accuracy)} {bounds}".rstrip()


def difference(row: Row) -> str:
    """Points over the best single expert."""
    bounds = _bounds(row.diff_low, row.diff_high, "+.1f")
    return f"{_per_cent(row.diff, '+.1f')} {bounds}".rstrip()


def field_table(matrix: FieldMatrix, title: str | None = None) -> Table:
    """Experts down, fields across, mean score in per cent."""
    shown = compact_table(title)
    shown.add_column("expert", no_wrap=True)
    for field, count in zip(matrix.fields, matrix.counts, strict=True):
        shown.add_column(f"{field}\n({count})", justify="right")
    for expert_id, means in zip(matrix.expert_ids, matrix.means, strict=True):
        shown.add_row(expert_id, *(_per_cent(mean) for mean in means))
    return shown


def report_json(
    rows: Sequence[Row],
    provenance: Mapping[str, object],
    fields: FieldMatrix | None = None,
    failures: Sequence[Failure] = (),
) -> dict[str, Any]:
    """The report as strict JSON values: what is not a number is null."""
    report: dict[str, Any] = {"rows": [asdict(row) for row in rows], "provenance": provenance}
    if fields is not None:
        report["fields"] = {
            "names": fields.fields,
            "counts": fields.counts,
            "experts": dict(zip(fields.expert_ids, fields.means.tolist(), strict=True)),
        }
    if failures:
        report["failures"] = [asdict(failure) for failure in failures]
    return strict_json(report)


def strict_json(report: Mapping[str, Any]) -> dict[str, Any]:
    """The same values where JSON has them, null for what is not a number."""
    strict: dict[str, Any] = _strict(report)
    return strict


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the whole file or leaves the old one."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write_bytes(text.encode()))


@dataclass(frozen=True, slots=True)
class _Column:
    header: str
    cells: list[str]


def _policy(row: Row) -> str:
    """Tuned numbers are long and in the JSON report; here is what was asked for."""
    # Words, so that lines break between options.
    return "" if row.policy == REFERENCE else row.policy.replace(":", " ")


def _bounds(low: float, high: float, form: str) -> str:
    if not (isfinite(low) and isfinite(high)):
        return ""
    return f"[{_per_cent(low, form)}, {_per_cent(high, form)}]"


def _per_cent(fraction: float, form: str = ".1f") -> str:
    return _number(100 * fraction, form)


def _number(value: float, form: str) -> str:
    # Rounding may leave a minus before nothing.
    text = format(value, form) if isfinite(value) else "-"
    return "+0.0" if text == "-0.0" else text


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
