"""How experts are asked in a live evaluation: settings, and many asks at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coe.errors import CoeError
from coe.eval.datasets import Grade
from coe.eval.runs.journal import Journal, Spot
from coe.scheduling.planned_pool import PlannedPool
from coe.types import Completion, GenerationRequest, Message, Query, SamplingParams

Ask = Callable[[], Awaitable[Completion]]
Grader = Callable[[Query, str], Grade]
"""Judges the text of a completion of a query."""
Prompt = Callable[[Query, str], tuple[Message, ...]]
"""What an expert is told of a query; the expert is empty where the query is routed."""


class Progress(Protocol):
    """Told of finished work; must not block."""

    def advance(self, n: int = 1) -> None: ...


class Unwatched:
    """Progress that nobody looks at."""

    def advance(self, n: int = 1) -> None:
        pass


def text_alone(query: Query, expert_id: str) -> tuple[Message, ...]:
    """The query's own text, without examples or instructions."""
    return (Message("user", query.text),)


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
    prompt: Prompt = text_alone
    journal: Journal | None = None
    """What was answered by an earlier run, and where answers are kept: engines and aggregator are
    to be those of `coe.eval.runs.hearing`. None: nothing was, and nothing is."""

    def is_planned(self, experts: Iterable[str]) -> bool:
        """Whether all of these follow a plan."""
        return self.planned is not None and self.planned.hosts(experts)

    def request(self, query: Query, expert_id: str = "") -> GenerationRequest:
        """What experts are asked; it is routed by the query's own text."""
        messages = self.prompt(query, expert_id)
        return GenerationRequest(messages, self.params, query.id, ask=query.text)

    def is_heard(self, spot: Spot) -> bool:
        return self.journal is not None and spot in self.journal.spots


async def bounded(
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
