"""An outcome table as one parquet file: one row for each query and expert.

Columns `query_id`, `text`, `expert` and `score` (null: not measured) are required; `category`,
`split`, `answer` and `cost_usd` are read where present, and any further column is passed over,
so a table can be made with any tool. `vector` stands on the first row of each query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.errors import DatasetError
from coe.eval.files import objects, parquet, read_parquet, replace_file
from coe.outcomes import FloatArray, OutcomeTable
from coe.types import Query

_FORMAT = 1
_KEY = b"coe.outcomes"
_REQUIRED = ("query_id", "text", "expert", "score")
_OPTIONAL = ("category", "split", "answer", "cost_usd", "vector")
_SOURCE = "`coe eval zoo --record FILE` writes one, docs/data.md says how to make one"

Cells = Sequence[Sequence[object]]
"""(n_queries, n_experts) values of one further column."""


def save_outcomes(
    table: OutcomeTable,
    path: Path,
    splits: str | Sequence[str] | None = None,
    further: Mapping[str, Cells] | None = None,
) -> None:
    """Writes a table that `load_outcomes` reads back unchanged.

    `splits` names the split of every query or of each; `further` adds columns for readers
    other than this one, such as token counts and error texts.
    """
    import pyarrow as pa

    ids = [query.id for query in table.queries]
    if len(set(ids)) != len(ids):
        raise DatasetError("two queries of the table share an id; ids must be unique to be saved")
    n_experts = len(table.expert_ids)
    columns: dict[str, Any] = {
        "query_id": _repeated(ids, n_experts),
        "text": _repeated([query.text for query in table.queries], n_experts),
        "category": _repeated([query.category for query in table.queries], n_experts),
        "expert": pa.array(list(table.expert_ids) * len(ids), pa.string()).dictionary_encode(),
        "score": pa.array(table.scores.astype(np.float64).ravel(), from_pandas=True),
    }
    if splits is not None:
        each = [splits] * len(ids) if isinstance(splits, str) else list(splits)
        columns["split"] = _repeated(each, n_experts)
    if table.answers is not None:
        columns["answer"] = pa.array([a for row in table.answers for a in row], pa.string())
    if table.cost_usd is not None:
        flat = table.cost_usd.astype(np.float64).ravel()
        columns["cost_usd"] = pa.array(flat, from_pandas=True)
    if table.vectors is not None:
        columns["vector"] = _vector_column(table.vectors, n_experts)
    for name, cells in (further or {}).items():
        columns[name] = pa.array([cell for row in cells for cell in row])
    facts = {"format": _FORMAT, "experts": table.expert_ids, "vectors_name": table.vectors_name}
    written = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(facts)})
    writer = parquet()
    replace_file(path, lambda file: writer.write_table(written, file, compression="zstd"))


def load_outcomes(path: Path, split: str | None = None) -> OutcomeTable:
    """The table of a file, or one split of it; queries and experts in the order of the file."""
    rows = read_parquet(path, _REQUIRED, _SOURCE, optional=_OPTIONAL)
    facts = _facts(rows, path)
    if split is not None:
        rows = _of_split(rows, split, path)
    query_rows, query_ids, firsts = _encoded(rows["query_id"])
    expert_columns, expert_ids, _ = _encoded(rows["expert"])
    if set(expert_ids) <= set(facts.get("experts", ())):
        order = list(facts["experts"])
        expert_columns = np.array([order.index(id_) for id_ in expert_ids], int)[expert_columns]
        expert_ids = order
    shape = (len(query_ids), len(expert_ids))
    cells = query_rows * shape[1] + expert_columns
    if (np.bincount(cells) > 1).any():
        raise DatasetError(f"{path}: a query and expert occur twice; keep one row for each pair")
    first_rows = rows.take(firsts)
    queries = _queries(first_rows, query_ids)
    answers = _answers(rows, cells, shape) if "answer" in rows.column_names else None
    costs = _spread(rows["cost_usd"], cells, shape) if "cost_usd" in rows.column_names else None
    return OutcomeTable(
        queries=queries,
        expert_ids=tuple(expert_ids),
        scores=_checked(_spread(rows["score"], cells, shape), path),
        answers=answers,
        cost_usd=costs,
        vectors=_vectors(first_rows),
        vectors_name=facts.get("vectors_name"),
    )


def _repeated(values: Sequence[object], times: int) -> Any:
    import pyarrow as pa

    # A dictionary, so that a text is held once and not once for each expert.
    codes = np.repeat(np.arange(len(values), dtype=np.int32), times)
    return pa.array(values, pa.string()).dictionary_encode().take(codes)


def _vector_column(vectors: FloatArray, n_experts: int) -> Any:
    """A list column, null but on the first row of each query."""
    import pyarrow as pa

    is_first = np.arange(len(vectors) * n_experts) % n_experts == 0
    ends = np.cumsum(is_first * vectors.shape[1])
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, vectors.ravel(), mask=pa.array(~is_first))


def _facts(rows: Any, path: Path) -> dict[str, Any]:
    raw = (rows.schema.metadata or {}).get(_KEY)
    if raw is None:
        return {}
    facts: dict[str, Any] = json.loads(raw)
    if facts.get("format") != _FORMAT:
        raise DatasetError(
            f"{path}: written in format {facts.get('format')}, this version reads {_FORMAT}; "
            "record it again"
        )
    return facts


def _of_split(rows: Any, split: str, path: Path) -> Any:
    import pyarrow.compute as pc

    if "split" not in rows.column_names:
        raise DatasetError(f"{path}: has no column 'split', so it has no split {split!r}")
    kept = rows.filter(pc.equal(rows["split"], split))
    if kept.num_rows == 0:
        known = ", ".join(sorted(str(name) for name in rows["split"].unique().to_pylist()))
        raise DatasetError(f"{path}: has no split {split!r} (it has {known})")
    return kept


def _encoded(column: Any) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """Codes by first appearance, the values they stand for, and where each first appears."""
    import pyarrow as pa

    if column.null_count:
        raise DatasetError("a query_id or an expert is null; every row needs both")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    coded = column.unify_dictionaries().combine_chunks()
    stored = coded.indices.to_numpy(zero_copy_only=False)
    # A dictionary may hold values that no row has, and in any order.
    used, firsts, codes = np.unique(stored, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    values = coded.dictionary.take(used[order]).to_pylist()
    return rank[codes], [str(value) for value in values], firsts[order]


def _queries(first_rows: Any, query_ids: Sequence[str]) -> tuple[Query, ...]:
    texts = first_rows["text"].to_pylist()
    categories = (
        first_rows["category"].to_pylist()
        if "category" in first_rows.column_names
        else [None] * len(texts)
    )
    return tuple(Query(t, i, c) for t, i, c in zip(texts, query_ids, categories, strict=True))


def _spread(column: Any, cells: NDArray[np.int64], shape: tuple[int, int]) -> FloatArray:
    import pyarrow as pa

    values = np.full(shape[0] * shape[1], np.nan)
    values[cells] = column.cast(pa.float64()).to_numpy()
    return values.reshape(shape)


def _answers(
    rows: Any, cells: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[tuple[str | None, ...], ...]:
    values = np.full(shape[0] * shape[1], None, dtype=object)
    values[cells] = objects(rows["answer"])
    return tuple(map(tuple, values.reshape(shape).tolist()))


def _vectors(first_rows: Any) -> FloatArray | None:
    if "vector" not in first_rows.column_names:
        return None
    column = first_rows["vector"].combine_chunks()
    values: FloatArray = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(first_rows.num_rows, -1)


def _checked(scores: FloatArray, path: Path) -> FloatArray:
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise DatasetError(
            f"{path}: score {scores[outside][0]:g} is not between 0 and 1; divide by the most "
            "that can be scored"
        )
    return scores
