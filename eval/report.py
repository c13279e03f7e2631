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
    """The results, accuracy in per cent with 95 % intervals."""
    from rich.table import Table

    left_out = any(row.not_measured for row in rows)
    shown = Table(title=title)
    for name in ("router", "policy"):
        shown.add_column(name)
    numbers = ["n", *(["not measured"] if left_out else []), "accuracy %", "vs best single"]
    for name in (*numbers, "calls", "active B", "USD / 1000"):
        shown.add_column(name, justify="right")
    for row in rows:
        counts = [str(row.n), *([str(row.not_measured)] if left_out else [])]
        shown.add_row(_named(row), row.policy, *counts, *_measures(row))
    return shown


def field_table(matrix: FieldMatrix, title: str | None = None) -> Table:
    """Experts down, fields across, mean score in per cent."""
    from rich.table import Table

    shown = Table(title=title)
    shown.add_column("expert")
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
    strict: dict[str, Any] = _strict(report)
    return strict


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the whole file or leaves the old one."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write_bytes(text.encode()))


def _named(row: Row) -> str:
    """The best single expert is worth naming; its row says only that it is one."""
    only = [expert_id for expert_id, share in row.shares.items() if share == 1.0]
    return f"{row.router} ({only[0]})" if only and row.policy == REFERENCE else row.router


def _measures(row: Row) -> list[str]:
    accuracy = f"{_per_cent(row.accuracy)} {_bounds(row.low, row.high, '.1f')}"
    diff = f"{_per_cent(row.diff, '+.1f')} {_bounds(row.diff_low, row.diff_high, '+.1f')}"
    return [
        accuracy.rstrip(),
        diff.rstrip(),
        _number(row.calls, ".2f"),
        _number(row.active_params_b, ".3g"),
        _number(row.cost_usd * 1000, ".3g"),
    ]


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
