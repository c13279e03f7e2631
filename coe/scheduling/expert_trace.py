"""A recorded trace of who was asked: one JSON object a line.

`{"expert": "math", "time": 12.5}` is one request; `time` is in seconds of any clock. `tokens`
may say how much it generated, and `recruited` name all experts of one query, `expert` then
being the first of them or left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import orjson

from coe.errors import DatasetError
from coe.outcomes import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTrace:
    """Requests in the order they came; a query that recruited several has one for each."""

    expert_ids: tuple[str, ...]
    experts: IntArray
    """(n_requests,) index of the expert."""
    queries: IntArray
    """(n_requests,) index of the query it belongs to, never decreasing."""
    times_s: FloatArray
    """(n_queries,) when each query came."""
    tokens: FloatArray
    """(n_queries,) NaN where not known."""

    def __len__(self) -> int:
        return len(self.experts)

    @property
    def hours(self) -> float:
        """From the first query to the last; at least a second."""
        return max(1.0, float(self.times_s[-1] - self.times_s[0])) / 3600.0

    def recruited_together(self) -> dict[tuple[str, str], int]:
        """How many queries recruited both of two experts; pairs in the order of `expert_ids`."""
        return {pair: both for pair, (both, _) in self._pairs().items() if both}

    def turns(self) -> dict[tuple[str, str], int]:
        """How often one of two experts would be loaded if the two shared room for one.

        Once for a query that recruits both, whose order is free; else if the one asked for is
        not the one that is there. Pairs in the order of `expert_ids`, those without left out.
        """
        return {pair: turns for pair, (_, turns) in self._pairs().items() if turns}

    def _pairs(self) -> dict[tuple[str, str], tuple[int, int]]:
        asked = [np.unique(self.queries[self.experts == e]) for e in range(len(self.expert_ids))]
        return {
            (self.expert_ids[one], self.expert_ids[other]): _turns(asked[one], asked[other])
            for one, other in combinations(range(len(asked)), 2)
        }


def _turns(one: IntArray, other: IntArray) -> tuple[int, int]:
    """Queries common to both, and turns; given the queries of each, ascending."""
    both = np.intersect1d(one, other, assume_unique=True)
    only_one = np.setdiff1d(one, both, assume_unique=True)
    only_other = np.setdiff1d(other, both, assume_unique=True)
    alone = np.concatenate([only_one, only_other])
    order = np.argsort(alone)
    is_other = (order >= len(only_one)).astype(int)
    # Every query that needs both leaves the other one resident than it found.
    flips = np.searchsorted(both, alone[order]) + is_other
    return len(both), len(both) + int((np.diff(flips) % 2).sum())


def read_trace(path: Path, elsewhere: Collection[str] = ()) -> ExpertTrace:
    """The trace of a file, without experts that are hosted `elsewhere`.

    Raises `DatasetError` naming the line that is wrong.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; name a trace of JSON lines") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            named, time_s, n_tokens = _row(line, f"{path}: line {number}")
            here = [expert_id for expert_id in named if expert_id not in elsewhere]
            if here:
                rows.append((here, time_s, n_tokens))
    if not rows:
        problem = "names no expert that is hosted here" if lines else "is empty"
        raise DatasetError(f"{path}: the trace {problem}")
    return trace_of(rows)


def trace_of(rows: Iterable[tuple[Sequence[str], float, float | None]]) -> ExpertTrace:
    """A trace from (experts, time, tokens) of each query."""
    index: dict[str, int] = {}
    experts: list[int] = []
    queries: list[int] = []
    times: list[float] = []
    tokens: list[float] = []
    for query, (named, time_s, n_tokens) in enumerate(rows):
        for expert_id in named:
            experts.append(index.setdefault(expert_id, len(index)))
            queries.append(query)
        times.append(time_s)
        tokens.append(np.nan if n_tokens is None else n_tokens)
    return ExpertTrace(
        tuple(index),
        np.array(experts, dtype=np.int64),
        np.array(queries, dtype=np.int64),
        np.array(times),
        np.array(tokens),
    )


def _row(line: bytes, where: str) -> tuple[list[str], float, float | None]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DatasetError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DatasetError(f"{where} is not an object")
    named = row.get("recruited") or [row.get("expert")]
    if not isinstance(named, list) or not all(isinstance(e, str) and e for e in named):
        raise DatasetError(f"{where} names no expert; give `expert` or a list `recruited`")
    time_s, n_tokens = row.get("time"), row.get("tokens")
    if isinstance(time_s, bool) or not isinstance(time_s, int | float):
        raise DatasetError(f"{where} has no `time` in seconds")
    if n_tokens is not None and (
        isinstance(n_tokens, bool) or not isinstance(n_tokens, int | float)
    ):
        raise DatasetError(f"{where}: `tokens` is no number")
    return named, float(time_s), None if n_tokens is None else float(n_tokens)
