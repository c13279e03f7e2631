"""Queries really routed, and the experts chosen for each really asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from coe.aggregation import AsksInTurn
from coe.composition import Composition
from coe.errors import CoeError, ShuttingDown
from coe.eval.asking import Ask, Grader, LiveSettings, Progress, Unwatched, bounded
from coe.eval.datasets import Grade
from coe.eval.live import Failure
from coe.eval.runs.hearing import Recalled
from coe.eval.runs.journal import Record, Spot
from coe.routing import RoutingDecision
from coe.scheduling.planned_pool import foreseen
from coe.types import Completion, Query


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


async def run_routed(
    composition: Composition,
    queries: Sequence[Query],
    grade: Grader,
    settings: LiveSettings | None = None,
    progress: Progress | None = None,
) -> RoutedRun:
    """Routes all queries, asks the chosen experts, and judges what comes out."""
    chosen = settings or LiveSettings()
    decisions = await decided_all(composition, queries)
    results = await ask_routed(composition, queries, decisions, chosen, progress)
    completions = [each if isinstance(each, Completion) else None for each in results]
    failures = [
        Failure(query.id, decision.experts, str(result))
        for query, decision, result in zip(queries, decisions, results, strict=True)
        if isinstance(result, CoeError)
    ]
    grades = [
        None if completion is None else grade(query, completion.text)
        for query, completion in zip(queries, completions, strict=True)
    ]
    return RoutedRun(tuple(decisions), tuple(grades), tuple(completions), tuple(failures))


async def ask_routed(
    composition: Composition,
    queries: Sequence[Query],
    decisions: Sequence[RoutingDecision],
    settings: LiveSettings,
    progress: Progress | None = None,
) -> list[Completion | CoeError]:
    """What comes out for each query, experts being grouped so that each loads once a stage."""
    asks = [
        partial(_complete, composition, query, decision, settings)
        for query, decision in zip(queries, decisions, strict=True)
    ]
    ahead = _ahead(composition, queries, decisions, settings)
    if settings.planned is not None:
        settings.planned.expect(ahead)
    results = await _ask_all(decisions, asks, settings, progress or Unwatched())
    if settings.planned is not None:
        settings.planned.forget()
    return results


async def decided_all(composition: Composition, queries: Sequence[Query]) -> list[RoutingDecision]:
    """In a thread where deciding takes a model or a network, so that the loop stays free."""
    route = composition.router.route_batch
    if composition.decides_slowly:
        return await asyncio.to_thread(route, queries)
    return route(queries)


async def _complete(
    composition: Composition, query: Query, decision: RoutingDecision, settings: LiveSettings
) -> Completion:
    """What comes out in the end, kept where the run is; asked once."""
    spot, journal = Spot("final", query.id), settings.journal
    known = journal.get(spot) if journal is not None else None
    if known is not None:
        if known.completion is None:
            raise Recalled(decision.experts[0], known.error or "no answer was kept")
        return known.completion
    try:
        completion = await composition.complete(settings.request(query), decision)
    except ShuttingDown:
        raise
    except CoeError as error:
        if journal is not None:
            journal.add(Record(spot, error=str(error)))
        raise
    if journal is not None:
        journal.add(Record.of(spot, completion))
    return completion


def _ahead(
    composition: Composition,
    queries: Sequence[Query],
    decisions: Sequence[RoutingDecision],
    settings: LiveSettings,
) -> list[Counter[str]]:
    """How much of each expert is still to be asked, stage by stage."""
    in_turn = isinstance(composition.aggregator, AsksInTurn)
    writer = settings.planned.writer if settings.planned is not None else None
    left = [
        (query.id, decision.experts)
        for query, decision in zip(queries, decisions, strict=True)
        if not settings.is_heard(Spot("final", query.id))
    ]
    stages = foreseen([experts for _, experts in left], writer, in_turn)
    for query_id, experts in left:
        for rank, expert_id in enumerate(experts):
            if settings.is_heard(Spot("answer", query_id, expert_id)):
                stages[rank if in_turn else 0][expert_id] -= 1
        if writer is not None and settings.is_heard(Spot("write", query_id, writer)):
            stages[-1][writer] -= 1
    return [+stage for stage in stages]


async def _ask_all(
    decisions: Sequence[RoutingDecision],
    asks: Sequence[Ask],
    settings: LiveSettings,
    progress: Progress,
) -> list[Completion | CoeError]:
    """What came of each, in order: those under a plan together, the others in groups."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, decision in enumerate(decisions):
        experts = () if settings.is_planned(decision.experts) else decision.experts
        groups.setdefault(experts, []).append(i)
    planned = groups.pop((), [])
    results: dict[int, Completion | CoeError] = {}
    async with asyncio.TaskGroup() as tasks:
        of_plan = [asks[i] for i in planned]
        beside = tasks.create_task(bounded(of_plan, max(1, len(of_plan)), progress))
        for members in groups.values():
            answers = await bounded([asks[i] for i in members], settings.concurrency, progress)
            results.update(zip(members, answers, strict=True))
    results.update(zip(planned, beside.result(), strict=True))
    return [results[i] for i in range(len(asks))]
