"""Two finished runs side by side, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coe.errors import DatasetError
from coe.eval.intervals import bootstrap_difference
from coe.eval.runs.folder import RunFolder
from coe.outcomes import FloatArray

_STAGES = ("final", "answer")


@dataclass(frozen=True, slots=True)
class Contrast:
    """One subject's scores in both runs, on the questions that both have a score of."""

    subject: str
    """An expert, or "routed"."""
    n: int
    first: float
    second: float
    diff: float
    """Mean of second less first, paired by question, with its 95 % bootstrap interval."""
    low: float
    high: float
    n_better: int
    """Questions on which the second run scored more."""
    n_worse: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two runs."""

    contrasts: tuple[Contrast, ...]
    changed: Mapping[str, tuple[Any, Any]]
    """Key of the plan → what it was in either run."""


def compare_runs(first: RunFolder, second: RunFolder, seed: int = 0) -> Comparison:
    """Raises `DatasetError` where a run is not finished, or the two share no question."""
    scores = [_scores(run.read_results()) for run in (first, second)]
    plans = [run.read_plan() for run in (first, second)]
    shared = [subject for subject in scores[0] if subject in scores[1]]
    contrasts = [
        contrast
        for subject in shared
        if (contrast := _contrast(subject, scores[0][subject], scores[1][subject], seed)).n
    ]
    if not contrasts:
        raise DatasetError(
            f"{first.path} and {second.path}: have no question in common that the same was asked "
            "of; compare runs of one benchmark and split"
        )
    keys = [key for key in plans[0] if key not in ("provenance", "format")]
    changed = {
        key: (plans[0].get(key), plans[1].get(key))
        for key in keys
        if plans[0].get(key) != plans[1].get(key)
    }
    return Comparison(tuple(contrasts), changed)


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Subject → question → score; what has none is left out."""
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["stage"] in _STAGES and row["score"] is not None:
            subject = row["expert"] or "routed"
            scores.setdefault(subject, {})[row["query_id"]] = row["score"]
    return dict(sorted(scores.items(), key=lambda item: item[0] != "routed"))


def _contrast(
    subject: str, first: Mapping[str, float], second: Mapping[str, float], seed: int
) -> Contrast:
    ids = [id_ for id_ in first if id_ in second]
    before: FloatArray = np.array([first[id_] for id_ in ids], float)
    after: FloatArray = np.array([second[id_] for id_ in ids], float)
    interval = bootstrap_difference(after, before, np.random.default_rng(seed))
    return Contrast(
        subject,
        len(ids),
        float(before.mean()) if ids else np.nan,
        float(after.mean()) if ids else np.nan,
        interval.mean,
        interval.low,
        interval.high,
        int((after > before).sum()),
        int((after < before).sum()),
    )
