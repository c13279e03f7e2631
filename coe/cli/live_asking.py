"""Experts really asked, hosted ones by plan, as a batch asks them, and told how far that is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from coe.assembly import load_planned, planned_engines
from coe.cli.progress import Moment, progress_bar, watched
from coe.composition import Composition
from coe.config import Config
from coe.engines.base import Engine
from coe.errors import CoeError
from coe.eval.asking import LiveSettings
from coe.eval.datasets import QuestionSet
from coe.eval.live import LiveRun, run_live
from coe.eval.readiness import unready
from coe.eval.routed import RoutedRun, run_routed
from coe.scheduling.planned_pool import PlannedPool, Standing

if TYPE_CHECKING:
    from coe.cli.zoo_run import ZooOptions


async def asked_live(
    config: Config, questions: QuestionSet, options: ZooOptions, routes: bool
) -> tuple[LiveRun, RoutedRun | None]:
    """Every expert is asked everything; `routes`: and the configured router chooses for each."""
    composition, engines, pool = _loaded(config, routes)
    n_queries = len(questions.queries)
    try:
        settings = LiveSettings(
            concurrency=options.concurrency,
            ready_timeout_s=config.startup_timeout_s,
            without=await unready_experts(config, engines, options.ready_timeout_s, pool),
            planned=pool,
        )
        asked = Asked(n_queries * len(config.pool), "asked of every expert", pool)
        async with watched(asked.moment):
            live = await run_live(
                engines, config.pool, questions.queries, questions.grade, settings, asked
            )
        if composition is None:
            return live, None
        hidden = [replace(query, category=None) for query in questions.queries]
        asked = Asked(n_queries, "routed and asked", pool)
        async with watched(asked.moment):
            routed = await run_routed(composition, hidden, questions.grade, settings, asked)
        return live, routed
    finally:
        stops = (engine.stop(10.0) for engine in engines.values())
        await asyncio.gather(*stops, return_exceptions=True)


def _loaded(
    config: Config, routes: bool
) -> tuple[Composition | None, Mapping[str, Engine], PlannedPool | None]:
    if not routes:
        return None, *planned_engines(config)
    composition, pool = load_planned(config)
    return composition, dict(composition.engines), pool


class Asked:
    """Counts what is asked, and tells how far that is."""

    def __init__(self, total: int, what: str, pool: PlannedPool | None) -> None:
        self._total = total
        self._what = what
        self._pool = pool
        self._n_done = 0

    def advance(self, n: int = 1) -> None:
        self._n_done += n

    def moment(self) -> Moment:
        standing = self._pool.standing if self._pool else Standing()
        done = f"{self._n_done} of {self._total} {self._what}"
        return Moment(done, self._n_done / max(1, self._total), None, standing)


async def unready_experts(
    config: Config,
    engines: Mapping[str, Engine],
    ready_timeout_s: float,
    pool: PlannedPool | None,
) -> dict[str, CoeError]:
    """Experts that are not ready are told at once, to be left out. Raises where none is.

    Those that a plan brings are not waited for: what keeps one from coming is told of its queries.
    """
    others = [id_ for id_ in config.pool.ids if pool is None or not pool.hosts([id_])]
    without: dict[str, CoeError] = {}
    if others:
        with progress_bar("waiting for the experts", 1):
            without = await unready(
                engines, config.pool.subset(others), ready_timeout_s, config.startup_timeout_s
            )
    if len(without) == len(config.pool):
        raise next(iter(without.values()))
    for error in without.values():
        print(f"left out: {error}", file=sys.stderr)
    return without
