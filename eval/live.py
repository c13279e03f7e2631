"""Every expert really asked every query: live evaluation.

A run of all experts yields an `OutcomeTable`, so that live and recorded results are judged by
the same code. Failures are records: NaN in the table, and the error in words beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from coe.engines.base import Engine, collect
from coe.errors import CoeError
from coe.eval.asking import Grader, LiveSettings, Progress, Unwatched, bounded
from coe.eval.live_cells import FURTHER, Cell
from coe.eval.runs.journal import Record, Spot
from coe.eval.tables import Cells
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.types import Completion, GenerationRequest, Query


@dataclass(frozen=True, slots=True)
class Failure:
    """A query that an expert, or a router's choice of experts, could not answer."""

    query_id: str
    experts: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True, eq=False)
class LiveRun:
    """What every expert answered to every query."""

    table: OutcomeTable
    failures: tuple[Failure, ...]
    further: Mapping[str, Cells]
    """Columns that `save_outcomes` keeps beside the table: completion, prompt_tokens,
    completion_tokens, e2el_s, error; None in a cell means that there is none."""


async def run_live(
    engines: Mapping[str, Engine],
    pool: ExpertPool,
    queries: Sequence[Query],
    grade: Grader,
    settings: LiveSettings | None = None,
    progress: Progress | None = None,
) -> LiveRun:
    """Asks every expert of the pool every query, and judges what they answer."""
    columns = await ask_everyone(engines, pool, queries, settings, progress)
    return live_run(pool, queries, columns, grade)


async def ask_everyone(
    engines: Mapping[str, Engine],
    pool: ExpertPool,
    queries: Sequence[Query],
    settings: LiveSettings | None = None,
    progress: Progress | None = None,
) -> list[list[Completion | CoeError]]:
    """Every expert's answers, in the pool's order, one expert asked after the other.

    Each expert is thus loaded once; those under a plan come in its order, beside the others.
    `progress` advances once for each query and expert.
    """
    chosen = settings or LiveSettings()
    told = progress or Unwatched()
    asked = [id_ for id_ in pool.ids if id_ not in chosen.without]
    columns = {
        id_: _not_asked(id_, error, queries, (chosen, told))
        for id_, error in chosen.without.items()
    }
    if chosen.planned is not None:
        chosen.planned.expect([{id_: _n_left(id_, queries, chosen) for id_ in asked}])
    planned = [id_ for id_ in asked if chosen.is_planned([id_])]
    async with asyncio.TaskGroup() as tasks:
        running = {
            id_: tasks.create_task(_ask_planned(engines[id_], queries, chosen, told))
            for id_ in planned
        }
        for id_ in asked:
            if id_ not in running:
                columns[id_] = await _ask_expert(engines[id_], queries, chosen, told)
    columns |= {id_: task.result() for id_, task in running.items()}
    if chosen.planned is not None:
        chosen.planned.forget()
    return [columns[id_] for id_ in pool.ids]


def _n_left(expert_id: str, queries: Sequence[Query], settings: LiveSettings) -> int:
    """Queries that the expert has still to answer."""
    return sum(not settings.is_heard(Spot("answer", q.id, expert_id)) for q in queries)


async def _ask_expert(
    engine: Engine, queries: Sequence[Query], settings: LiveSettings, progress: Progress
) -> list[Completion | CoeError]:
    if not _n_left(engine.expert_id, queries, settings):
        return await _ask_planned(engine, queries, settings, progress)
    try:
        await engine.ensure_ready(settings.ready_timeout_s)
    except CoeError as error:
        return _not_asked(engine.expert_id, error, queries, (settings, progress))
    asks = [
        partial(_complete_one, engine, settings.request(query, engine.expert_id))
        for query in queries
    ]
    answers = await bounded(asks, settings.concurrency, progress)
    if settings.stop_each:
        await engine.stop(settings.ready_timeout_s)
    return answers


async def _ask_planned(
    engine: Engine, queries: Sequence[Query], settings: LiveSettings, progress: Progress
) -> list[Completion | CoeError]:
    asks = [
        partial(_complete_one, engine, settings.request(query, engine.expert_id))
        for query in queries
    ]
    return await bounded(asks, max(1, len(asks)), progress)


def _not_asked(
    expert_id: str, error: CoeError, queries: Sequence[Query], told: tuple[LiveSettings, Progress]
) -> list[Completion | CoeError]:
    settings, progress = told
    for query in queries:
        spot = Spot("answer", query.id, expert_id)
        if settings.journal is not None and not settings.is_heard(spot):
            settings.journal.add(Record(spot, error=str(error)))
    progress.advance(len(queries))
    return [error] * len(queries)


async def _complete_one(engine: Engine, request: GenerationRequest) -> Completion:
    return await collect(engine.expert_id, engine.stream(request))


def live_run(
    pool: ExpertPool,
    queries: Sequence[Query],
    columns: Sequence[Sequence[Completion | CoeError]],
    grade: Grader,
) -> LiveRun:
    """What every expert answered, one column each, in the pool's order."""
    cells = [
        [
            Cell.of(expert, query, column[row], grade)
            for expert, column in zip(pool, columns, strict=True)
        ]
        for row, query in enumerate(queries)
    ]
    shape = (len(queries), len(pool))
    table = OutcomeTable(
        queries=tuple(queries),
        expert_ids=pool.ids,
        scores=np.array([[c.score for c in row] for row in cells], float).reshape(shape),
        answers=tuple(tuple(c.answer for c in row) for row in cells),
        cost_usd=np.array([[c.cost_usd for c in row] for row in cells], float).reshape(shape),
    )
    failures = tuple(
        Failure(query.id, (expert_id,), cell.error)
        for query, row in zip(queries, cells, strict=True)
        for expert_id, cell in zip(pool.ids, row, strict=True)
        if cell.error is not None
    )
    further = {name: [[getattr(c, name) for c in row] for row in cells] for name in FURTHER}
    return LiveRun(table, failures, further)
