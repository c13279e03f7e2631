"""Every expert really asked every query, and queries really routed: live evaluation.

A run of all experts yields an `OutcomeTable`, so that live and recorded results are judged by
the same code. Failures are records: NaN in the table, and the error in words beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from coe.aggregation import AsksInTurn
from coe.composition import Composition
from coe.engines.base import Engine, collect
from coe.errors import CoeError
from coe.eval.datasets import Grade
from coe.eval.live_cells import FURTHER, Cell
from coe.eval.tables import Cells
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routing import RoutingDecision
from coe.scheduling.planned_pool import PlannedPool, foreseen
from coe.types import Completion, GenerationRequest, Message, Query, SamplingParams

Ask = Callable[[], Awaitable[Completion]]
Grader = Callable[[Query, str], Grade]
"""Judges the text of a completion of a query."""


class Progress(Protocol):
    """Told of finished work; must not block."""

    def advance(self, n: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How experts are asked."""

    params: SamplingParams = field(default_factory=SamplingParams)
    concurrency: int = 8
    """Most queries in flight at once."""
    ready_timeout_s: float = 600.0
    without: Mapping[str, CoeError] = field(default_factory=dict)
    """Experts that are not asked, with the error their queries get; see `coe.eval.readiness`."""
    stop_each: bool = False
    """Frees an expert before the next is asked, where not all fit in memory together."""
    planned: PlannedPool | None = None
    """Hosted experts that follow a plan: they are given everything at once, and bound it
    themselves."""

    def is_planned(self, experts: Iterable[str]) -> bool:
        """Whether all of these follow a plan."""
        return self.planned is not None and self.planned.hosts(experts)


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


@dataclass(frozen=True, slots=True, eq=False)
class RoutedRun:
    """What came out of routing each query and asking the experts chosen for it."""

    decisions: tuple[RoutingDecision, ...]
    grades: tuple[Grade | None, ...]
    """None where all the experts chosen failed."""
    completions: tuple[Completion | None, ...]
    failures: tuple[Failure, ...]

    @property
    def scores(self) -> list[float]:
        """One per query; NaN where there was no answer."""
        return [np.nan if grade is None else grade.score for grade in self.grades]


async def run_live(
    engines: Mapping[str, Engine],
    pool: ExpertPool,
    queries: Sequence[Query],
    grade: Grader,
    settings: LiveSettings | None = None,
    progress: Progress | None = None,
) -> LiveRun:
    """Asks every expert of the pool every query, one expert after the other.

    Each expert is thus loaded once; those under a plan come in its order, beside the others.
    `progress` advances once for each query and expert.
    """
    chosen = settings or LiveSettings()
    told = progress or _Unwatched()
    asked = [id_ for id_ in pool.ids if id_ not in chosen.without]
    columns = {id_: _not_asked(error, queries, told) for id_, error in chosen.without.items()}
    if chosen.planned is not None:
        chosen.planned.expect([dict.fromkeys(asked, len(queries))])
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
    columns_in_order = [columns[id_] for id_ in pool.ids]
    return _live_run(pool, queries, columns_in_order, grade)


async def run_routed(
    composition: Composition,
    queries: Sequence[Query],
    grade: Grader,
    settings: LiveSettings | None = None,
    progress: Progress | None = None,
) -> RoutedRun:
    """Routes all queries, then asks the chosen experts, grouped so that each loads once."""
    chosen = settings or LiveSettings()
    decisions = await _decided(composition, queries)
    asks = [
        partial(composition.complete, _request(query, chosen), decision)
        for query, decision in zip(queries, decisions, strict=True)
    ]
    results = await _ask_routed(composition, decisions, asks, chosen, progress or _Unwatched())
    completions: list[Completion | None] = []
    grades: list[Grade | None] = []
    failures: list[Failure] = []
    for i, query in enumerate(queries):
        result = results[i]
        if isinstance(result, Completion):
            completions.append(result)
            grades.append(grade(query, result.text))
        else:
            completions.append(None)
            grades.append(None)
            failures.append(Failure(query.id, decisions[i].experts, str(result)))
    return RoutedRun(tuple(decisions), tuple(grades), tuple(completions), tuple(failures))


async def _ask_routed(
    composition: Composition,
    decisions: Sequence[RoutingDecision],
    asks: Sequence[Ask],
    settings: LiveSettings,
    progress: Progress,
) -> dict[int, Completion | CoeError]:
    """What came of each, by its place: those under a plan together, the others in groups."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, decision in enumerate(decisions):
        experts = () if settings.is_planned(decision.experts) else decision.experts
        groups.setdefault(experts, []).append(i)
    if settings.planned is not None:
        in_turn = isinstance(composition.aggregator, AsksInTurn)
        recruited = [decision.experts for decision in decisions]
        settings.planned.expect(foreseen(recruited, settings.planned.writer, in_turn))
    planned = groups.pop((), [])
    results: dict[int, Completion | CoeError] = {}
    async with asyncio.TaskGroup() as tasks:
        of_plan = [asks[i] for i in planned]
        beside = tasks.create_task(_bounded(of_plan, max(1, len(of_plan)), progress))
        for members in groups.values():
            of_group = [asks[i] for i in members]
            answers = await _bounded(of_group, settings.concurrency, progress)
            results.update(zip(members, answers, strict=True))
    results.update(zip(planned, beside.result(), strict=True))
    if settings.planned is not None:
        settings.planned.forget()
    return results


async def _decided(composition: Composition, queries: Sequence[Query]) -> list[RoutingDecision]:
    """In a thread where deciding takes a model or a network, so that the loop stays free."""
    route = composition.router.route_batch
    if composition.decides_slowly:
        return await asyncio.to_thread(route, queries)
    return route(queries)


class _Unwatched:
    def advance(self, n: int = 1) -> None:
        pass


async def _ask_expert(
    engine: Engine, queries: Sequence[Query], settings: LiveSettings, progress: Progress
) -> list[Completion | CoeError]:
    try:
        await engine.ensure_ready(settings.ready_timeout_s)
    except CoeError as error:
        return _not_asked(error, queries, progress)
    asks = [partial(_complete_one, engine, _request(query, settings)) for query in queries]
    answers = await _bounded(asks, settings.concurrency, progress)
    if settings.stop_each:
        await engine.stop(settings.ready_timeout_s)
    return answers


async def _ask_planned(
    engine: Engine, queries: Sequence[Query], settings: LiveSettings, progress: Progress
) -> list[Completion | CoeError]:
    asks = [partial(_complete_one, engine, _request(query, settings)) for query in queries]
    return await _bounded(asks, max(1, len(asks)), progress)


def _not_asked(
    error: CoeError, queries: Sequence[Query], progress: Progress
) -> list[Completion | CoeError]:
    progress.advance(len(queries))
    return [error] * len(queries)


async def _complete_one(engine: Engine, request: GenerationRequest) -> Completion:
    return await collect(engine.expert_id, engine.stream(request))


async def _bounded(
    asks: Sequence[Ask], concurrency: int, progress: Progress
) -> list[Completion | CoeError]:
    """Results in order, at most so many at once; an error on purpose is a result."""
    free = asyncio.Semaphore(concurrency)

    async def one(ask: Ask) -> Completion | CoeError:
        async with free:
            try:
                return await ask()
            except CoeError as error:
                return error
            finally:
                progress.advance()

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(ask)) for ask in asks]
    return [task.result() for task in running]


def _request(query: Query, settings: LiveSettings) -> GenerationRequest:
    return GenerationRequest((Message("user", query.text),), settings.params, query.id)


def _live_run(
    pool: ExpertPool,
    queries: Sequence[Query],
    columns: Sequence[Sequence[Completion | CoeError]],
    grade: Grader,
) -> LiveRun:
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
