"""What all recorded benchmarks share: experts from a table of models, cells from long outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.errors import DatasetError, nearest
from coe.eval.files import objects
from coe.experts import Expert, ExpertPool, Price, ReplaySpec
from coe.outcomes import BoolArray, FloatArray, OutcomeTable

MINILM = "recorded/all-MiniLM-L6-v2"
"""Name of the vectors that lie beside recorded answers."""


@dataclass(frozen=True, slots=True)
class RecordedBenchmark:
    """What a pool answered on a benchmark: the table and the experts of its columns."""

    table: OutcomeTable
    pool: ExpertPool

    def digest(self) -> str:
        """A short name for this exact data."""
        return self.table.digest()

    def without_categories(self) -> RecordedBenchmark:
        """The same answers to queries whose category nobody tells."""
        return RecordedBenchmark(self.table.without_categories(), self.pool)


@dataclass(frozen=True, slots=True)
class RecordedExpert:
    """An expert of a benchmark and what decides to which named pools it belongs."""

    expert: Expert
    is_complete: bool
    """Has a record for every question."""
    is_small: bool
    """Open weights, at most 10 B parameters."""


POOLS: Mapping[str, Callable[[RecordedExpert], bool]] = {
    "all": lambda recorded: True,
    "small": lambda recorded: recorded.is_small,
    "open": lambda recorded: recorded.expert.params_active_b is not None,
    "priced": lambda recorded: recorded.expert.price is not None,
}
"""Which of the complete experts a named pool takes: open weights of at most 10 B parameters,
those whose active parameters are known, those whose price is known."""


def recorded_expert(row: Mapping[str, Any], spec: ReplaySpec) -> Expert:
    """One row of `models.parquet`; every column but `model` may be missing."""
    return Expert(
        id=row["model"],
        engine=spec,
        description=row.get("hub_id") or "",
        context_tokens=row.get("context_tokens") or 4096,
        params_active_b=row.get("params_active_b"),
        price=_price(row.get("usd_per_mtok_in"), row.get("usd_per_mtok_out")),
    )


def _price(usd_per_mtok_in: float | None, usd_per_mtok_out: float | None) -> Price | None:
    if usd_per_mtok_in is None or usd_per_mtok_out is None:
        return None
    return Price(usd_per_mtok_in, usd_per_mtok_out)


def chosen_pool(
    experts: Mapping[str, RecordedExpert], pool: Sequence[str] | str, file: Path
) -> ExpertPool:
    """A pool of `POOLS` by name, or the experts listed, in the order listed."""
    if isinstance(pool, str):
        if pool not in POOLS:
            known = ", ".join(map(repr, POOLS))
            raise DatasetError(f"pool {pool!r} is neither one of {known} nor a list of experts")
        ids = [id_ for id_, each in experts.items() if each.is_complete and POOLS[pool](each)]
        if not ids:
            raise DatasetError(f"{file}: the pool {pool!r} has no expert")
    else:
        ids = list(pool)
    for id_ in ids:
        if id_ not in experts:
            guess = nearest(id_, experts)
            hint = f"; did you mean {guess!r}?" if guess else f" (it has {', '.join(experts)})"
            raise DatasetError(f"{file}: no expert {id_!r}{hint}")
    return ExpertPool(tuple(experts[id_].expert for id_ in ids))


def split_rows(splits: Any, split: str | None, file: Path) -> BoolArray:
    """(n_questions,) mask of the wanted split; None wants all."""
    names = objects(splits)
    if split is None:
        return np.ones(len(names), bool)
    kept: BoolArray = names == split
    if not kept.any():
        known = ", ".join(sorted({str(name) for name in names}))
        raise DatasetError(f"{file}: no split {split!r} (it has {known})")
    return kept


def recorded_vectors(file: Path, kept: BoolArray) -> FloatArray | None:
    """(n_kept, dim) float32; None if there is no such file."""
    if not file.is_file():
        return None
    stored = np.load(file, mmap_mode="r")
    if len(stored) != len(kept):
        raise DatasetError(
            f"{file}: {len(stored)} vectors for {len(kept)} questions; make it again from "
            "questions.parquet, one row each, or remove it"
        )
    vectors: FloatArray = stored[kept].astype(np.float32)
    return vectors


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where each row of long outcomes belongs among (n_questions, n_experts) cells."""

    rows: Any
    """The outcomes kept, as a pyarrow table: those of experts that are wanted."""
    at: Any
    """(n_rows,) the cell of each, counted row by row."""
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, outcomes: Any, key: str, question_ids: Any, expert_ids: Sequence[str], file: Path
    ) -> Grid:
        """`key` names the column that holds the question's id.

        Raises `DatasetError` for answers to unknown questions and for cells that occur twice.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        names = pa.array(expert_ids, pa.string())
        outcomes = outcomes.filter(pc.is_in(outcomes["model"].cast(pa.string()), value_set=names))
        rows = pc.index_in(outcomes[key], value_set=question_ids.cast(outcomes[key].type))
        if rows.null_count:
            raise DatasetError(
                f"{file}: {rows.null_count} answers to questions that questions.parquet lacks; "
                "both must be of one making"
            )
        columns = pc.index_in(outcomes["model"].cast(pa.string()), value_set=names)
        at = rows.to_numpy().astype(int) * len(expert_ids) + columns.to_numpy()
        if len(at) and (np.bincount(at) > 1).any():
            raise DatasetError(f"{file}: an expert answers a question twice; keep one answer")
        return cls(outcomes, at, (len(question_ids), len(expert_ids)))

    def where(self, kept: BoolArray) -> Grid:
        """Only some of the rows."""
        return Grid(self.rows.filter(kept), self.at[kept], self.shape)

    def numbers(self, column: str) -> FloatArray:
        """(n_questions, n_experts), NaN where there is no row or no such column."""
        placed = np.full(self.shape[0] * self.shape[1], np.nan)
        if column in self.rows.column_names:
            placed[self.at] = self.rows[column].to_numpy()
        return placed.reshape(self.shape)

    def texts(self, column: str) -> Any:
        """(n_questions, n_experts) objects, None where there is no row."""
        placed = np.full(self.shape[0] * self.shape[1], None, dtype=object)
        placed[self.at] = objects(self.rows[column])
        return placed.reshape(self.shape)
