"""A batch answered by plan, so that experts are swapped as seldom as can be.

1. Every request is routed. Of each only its place in the file and the decision stay in memory.
2. Requests of the same experts come together and are cut into windows.
3. All of a window is submitted at once, ordered by shared prefix. Hosted experts are told what
   comes, in this window and the next, and serve it visit by visit; others answer beside.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from coe.aggregation import AsksInTurn
from coe.composition import Composition
from coe.routing import RoutingDecision
from coe.scheduling.planned_pool import PlannedPool, Standing, foreseen
from coe.scheduling.prefix_order import prefix_order
from coe.service.batches.answering import Asker
from coe.service.batches.assignments import Assignments
from coe.service.batches.journal import Journal
from coe.service.batches.lines import BatchFile, BatchRequest
from coe.service.batches.remembering import RememberingEngine
from coe.service.batches.written import error_line

WINDOW = 20_000
"""Most requests that wait or run at once."""

CHUNK = 1_000
"""So many requests are read and routed before the event loop gets a word in."""

SYNC_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What one run did."""

    n_requests: int
    n_resumed: int
    """Finished by an earlier run."""
    n_failed: int
    """Of all."""
    n_tokens: int
    """Prompt and completion tokens of this run, as far as they were counted, and of what experts
    had answered earlier to requests that this run finished."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a run is, at one moment."""

    n_requests: int
    n_done: int
    """Also by earlier runs."""
    n_routed: int
    """Of those that this run has to answer."""
    share: float
    """Of the calls to experts that are foreseen, how many are over; 0 to 1."""
    n_tokens: int
    standing: Standing
    """Of hosted experts."""


class BatchRun:
    """Answers what a journal lacks."""

    def __init__(
        self, composition: Composition, routed_model: str, pool: PlannedPool | None = None
    ) -> None:
        """`pool`: the composition's hosted experts, if they can follow a plan."""
        self._composition = composition
        self._asker = Asker(composition, routed_model)
        self._pool = pool
        self._assignments = Assignments(self._asker)
        self._n_requests = 0
        self._n_done = 0
        self._n_calls_ahead = 0
        self._several: set[str] = set()
        """Of the requests of this window, those that more than one expert may answer."""

    @property
    def progress(self) -> BatchProgress:
        counted = self._composition.counters.experts.values()
        n_calls = sum(one.answers + one.abandoned + sum(one.failures.values()) for one in counted)
        return BatchProgress(
            self._n_requests,
            self._n_done,
            len(self._assignments),
            min(1.0, n_calls / self._n_calls_ahead) if self._n_calls_ahead else 0.0,
            sum(one.prompt_tokens + one.completion_tokens for one in counted),
            self._pool.standing if self._pool else Standing(),
        )

    async def answer(
        self, requests: BatchFile, journal: Journal, retry_failed: bool = False
    ) -> BatchSummary:
        """Answers what the journal lacks and finishes it. A failure is a line of its own.

        Raises `OSError` where the disk fails; what was finished until then stays in the journal.
        """
        if retry_failed:
            journal.forget(journal.failed)
        order = tuple(requests.request_ids)
        left = [custom_id for custom_id in order if custom_id not in journal.done]
        self._n_requests, self._n_done = len(order), len(order) - len(left)
        n_resumed = self._n_done
        async with together() as group:
            is_over = asyncio.Event()
            group.create_task(keep_synced(journal, is_over))
            with self._remembering(journal):
                await self._decide(requests, left)
                await self._answer_all(requests, journal)
            is_over.set()
        n_failed, n_tokens = len(journal.failed), self.progress.n_tokens
        journal.finish(order)
        return BatchSummary(len(order), n_resumed, n_failed, n_tokens)

    async def _decide(self, requests: BatchFile, custom_ids: Sequence[str]) -> None:
        """In a thread: the loop stays free, also for experts that routing asks."""

        def decide(chunk: Sequence[str]) -> None:
            self._assignments.decide(requests.requests(chunk))

        for chunk in cut(custom_ids, CHUNK):
            await asyncio.to_thread(decide, chunk)

    async def _answer_all(self, requests: BatchFile, journal: Journal) -> None:
        residents = self._pool.standing.residents if self._pool else ()
        order = await asyncio.to_thread(self._assignments.grouped, residents)
        windows = list(cut(order, WINDOW))
        stages = [self._stages(window, journal) for window in windows]
        self._n_calls_ahead = sum(sum(one.values()) for window in stages for one in window)
        for i, window in enumerate(windows):
            if self._pool:
                self._pool.expect([stage for ahead in stages[i : i + 2] for stage in ahead])
            read = await asyncio.to_thread(read_ordered, requests, window)
            await self._answer_window(read, journal)
        if self._pool:
            self._pool.forget()

    def _stages(self, window: Sequence[str], journal: Journal) -> list[Counter[str]]:
        """What is asked of whom, without what an earlier run has heard."""
        in_turn = isinstance(self._composition.aggregator, AsksInTurn)
        experts = list(self._assignments.experts(window))
        stages = foreseen(experts, self._pool.writer if self._pool else None, in_turn)
        for custom_id, asked in zip(window, experts, strict=True):
            heard = journal.experts_heard(custom_id)
            for rank, expert_id in enumerate(asked if heard else ()):
                stages[rank if in_turn else 0][expert_id] -= expert_id in heard
        return stages

    async def _answer_window(self, requests: Sequence[BatchRequest], journal: Journal) -> None:
        """All of them at once. Leaves nothing running, however it ends."""
        decided = [(request, self._assignments.decision(request)) for request in requests]
        self._several.clear()
        self._several.update(r.custom_id for r, decision in decided if self._has_parts(r, decision))
        async with together() as group:
            for request, decision in decided:
                group.create_task(self._answer(request, decision, journal))

    def _has_parts(self, request: BatchRequest, decision: RoutingDecision | Exception) -> bool:
        if isinstance(decision, Exception) or decision.is_pinned:
            return False
        if request.call.generation.id != request.custom_id:
            return False  # It was given an id of its own, which others may have, too.
        if request.call.complaint is not None:
            return False  # One expert alone answers it.
        return len(decision.experts) > 1 or self._composition.router.is_adaptive

    @contextmanager
    def _remembering(self, journal: Journal) -> Iterator[None]:
        """While it lasts, experts do not answer twice what several are asked."""
        engines = self._composition.engines
        self._composition.engines = {
            id_: RememberingEngine(engine, journal, self._several)
            for id_, engine in engines.items()
        }
        try:
            yield
        finally:
            self._composition.engines = engines

    async def _answer(
        self, request: BatchRequest, decision: RoutingDecision | Exception, journal: Journal
    ) -> None:
        try:
            if isinstance(decision, Exception):
                raise decision
            line = await self._asker.line(request, decision)
        except Exception as error:  # noqa: BLE001 - a defect is a line, too; `answer_for` logs it
            line = error_line(request, error)
        journal.add(request.custom_id, line)
        self._n_done += 1


async def keep_synced(journal: Journal, is_over: asyncio.Event) -> None:
    """A power cut costs a second of work; waiting for the disk at each line would cost more."""
    while not is_over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), SYNC_EVERY_S)
        await asyncio.to_thread(journal.sync)


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks of which the first failure ends all, and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def cut(custom_ids: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    return (custom_ids[at : at + most] for at in range(0, len(custom_ids), most))


def read_ordered(requests: BatchFile, custom_ids: Sequence[str]) -> list[BatchRequest]:
    """Those that share a prefix together, the longest of each kind first."""
    read = requests.requests(custom_ids)
    texts = ["\x1e".join(m.content for m in r.call.generation.messages) for r in read]
    return [read[i] for i in prefix_order(texts)]
