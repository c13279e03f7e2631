"""What clients said of answers, as outcomes to fit on.

A feedback file has one event of JSON on a line: a decision, with its query and the experts that
answered, or a score for one of these. `coe.feedback_log` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.errors import DatasetError
from coe.outcomes import FloatArray, OutcomeTable
from coe.types import Query


@dataclass(frozen=True, slots=True)
class Rating:
    """How good one expert's answer to one query was found to be."""

    decision_id: str
    text: str
    """The query's."""
    expert_id: str
    score: float
    """0 to 1."""


def read_feedback(file: Path) -> tuple[tuple[Rating, ...], int]:
    """The last rating of each expert's answer, oldest first, and how many lines were no events.

    Such a line is what a crash left of one. Raises `DatasetError` if there is no event at all.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{file}: no feedback can be read ({error}); name the file that `router.feedback` "
            "names where the gateway runs"
        ) from None
    events, n_torn = events_in(content)
    if n_torn and not events:
        raise DatasetError(f"{file} is no feedback file")
    texts = {event["id"]: event["text"] for event in events if event["event"] == "decision"}
    ratings: dict[tuple[str, str], Rating] = {}
    for event in events:
        if event["event"] == "feedback" and event["id"] in texts:
            id_, expert = event["id"], event["expert"]
            ratings[id_, expert] = Rating(id_, texts[id_], expert, float(event["score"]))
    return tuple(ratings.values()), n_torn


def feedback_table(ratings: Sequence[Rating], expert_ids: Sequence[str]) -> OutcomeTable:
    """One row for each text, the mean of what was said of each expert's answers to it.

    NaN where it was not asked, or nothing was said. Ratings of other experts are left out.
    """
    columns = {expert_id: column for column, expert_id in enumerate(expert_ids)}
    kept = [rating for rating in ratings if rating.expert_id in columns]
    rows: dict[str, int] = {}
    queries: list[Query] = []
    for rating in kept:
        if rating.text not in rows:
            rows[rating.text] = len(queries)
            queries.append(Query(rating.text, rating.decision_id))
    sums, counts = np.zeros((2, len(queries), len(columns)))
    for rating in kept:
        cell = rows[rating.text], columns[rating.expert_id]
        sums[cell] += rating.score
        counts[cell] += 1
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return OutcomeTable(tuple(queries), tuple(expert_ids), means)


def merged(recorded: OutcomeTable, feedback: OutcomeTable) -> OutcomeTable:
    """The recorded queries and then those of the feedback, with the feedback's columns.

    An expert that was never recorded is NaN there. Rows without any measured outcome are left
    out; vectors are not kept, since feedback has none.
    """
    expert_ids = feedback.expert_ids
    scores = np.vstack([_columns(recorded.scores, recorded, expert_ids), feedback.scores])
    costs = recorded.cost_usd
    if costs is not None:
        unknown = np.full(feedback.scores.shape, np.nan)
        costs = np.vstack([_columns(costs, recorded, expert_ids), unknown])
    whole = OutcomeTable(
        (*recorded.queries, *feedback.queries),
        expert_ids,
        scores,
        _answers(recorded, feedback),
        costs,
    )
    return whole.rows(np.flatnonzero((~np.isnan(scores)).any(axis=1)))


def _columns(values: FloatArray, table: OutcomeTable, expert_ids: Sequence[str]) -> FloatArray:
    picked = np.full((table.n_queries, len(expert_ids)), np.nan)
    for column, expert_id in enumerate(expert_ids):
        if expert_id in table.expert_ids:
            picked[:, column] = values[:, table.expert_ids.index(expert_id)]
    return picked


def _answers(
    recorded: OutcomeTable, feedback: OutcomeTable
) -> tuple[tuple[str | None, ...], ...] | None:
    if recorded.answers is None:
        return None
    at = [
        recorded.expert_ids.index(id_) if id_ in recorded.expert_ids else None
        for id_ in feedback.expert_ids
    ]
    known = tuple(tuple(None if c is None else row[c] for c in at) for row in recorded.answers)
    return known + ((None,) * len(at),) * feedback.n_queries


def events_in(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The events of a file, in order, and how many lines are none."""
    lines = content.splitlines()
    events = [event for line in lines if (event := event_of(line)) is not None]
    return events, len(lines) - len(events)


def event_of(line: bytes) -> dict[str, Any] | None:
    """The event on a line, or None for anything else, such as half an event."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("id"), str):
        return None
    kind = event.get("event")
    is_whole = kind == "decision" and _is_decision(event)
    return event if is_whole or (kind == "feedback" and _is_feedback(event)) else None


def _is_decision(event: Mapping[str, Any]) -> bool:
    answered = event.get("answered")
    return (
        isinstance(event.get("text"), str)
        and isinstance(answered, list)
        and all(isinstance(expert_id, str) for expert_id in answered)
    )


def _is_feedback(event: Mapping[str, Any]) -> bool:
    score = event.get("score")
    return (
        isinstance(event.get("expert"), str) and isinstance(score, int | float) and 0 <= score <= 1
    )
