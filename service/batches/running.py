"""A batch answered: everything submitted at once, so that experts are swapped as seldom as can be.

Requests are handed over grouped by expert and ordered by shared prefix; which expert is resident
when is the scheduler's to decide, and it sees all that waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from coe.composition import Composition
from coe.engines.base import collect
from coe.routing import RoutingDecision
from coe.service.batches.journal import Journal
from coe.service.batches.lines import BatchFile, BatchRequest, answer_line, error_line

WINDOW = 20_000
"""Most requests that wait or run at once. Of the others, only their places are in memory."""

SYNC_EVERY_S = 1.0

Told = Callable[[int, int], None]
"""Called with how many requests have just finished, and the tokens they took."""


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What one run did."""

    n_requests: int
    n_resumed: int
    """Finished by an earlier run."""
    n_failed: int
    """Of all."""
    n_tokens: int
    """Prompt and completion tokens of this run, as far as they were counted."""


async def run_batch(
    composition: Composition,
    requests: BatchFile,
    journal: Journal,
    routed_model: str,
    told: Told = lambda n, tokens: None,
    retry_failed: bool = False,
) -> BatchSummary:
    """Answers what the journal lacks and finishes it. A failure is a line of its own.

    Raises `OSError` where the disk fails; what was finished until then stays in the journal.
    """
    if retry_failed:
        journal.forget(journal.failed)
    order = tuple(requests.request_ids)
    left = [custom_id for custom_id in order if custom_id not in journal.done]
    n_resumed = len(order) - len(left)
    told(n_resumed, 0)
    run = _Run(composition, journal, routed_model, told)
    async with _together() as group:
        is_over = asyncio.Event()
        group.create_task(_sync(journal, is_over))
        for start in range(0, len(left), WINDOW):
            window = left[start : start + WINDOW]
            await run.answer(await asyncio.to_thread(requests.requests, window))
        is_over.set()
    n_failed = len(journal.failed)
    journal.finish(order)
    return BatchSummary(len(order), n_resumed, n_failed, run.n_tokens)


async def _sync(journal: Journal, is_over: asyncio.Event) -> None:
    """A power cut costs a second of work; waiting for the disk at each line would cost more."""
    while not is_over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), SYNC_EVERY_S)
        await asyncio.to_thread(journal.sync)


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks of which the first failure ends all, and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


class _Run:
    def __init__(
        self, composition: Composition, journal: Journal, routed_model: str, told: Told
    ) -> None:
        self._composition = composition
        self._journal = journal
        self._routed_model = routed_model
        self._told = told
        self.n_tokens = 0

    async def answer(self, requests: Sequence[BatchRequest]) -> None:
        """All of them at once. Leaves nothing running, however it ends."""
        decided = await asyncio.to_thread(self._decided, requests)
        async with _together() as group:
            for request, decision in decided:
                group.create_task(self._answer(request, decision))

    def _decided(
        self, requests: Sequence[BatchRequest]
    ) -> list[tuple[BatchRequest, RoutingDecision | Exception]]:
        """Grouped by first expert, then by prompt, so that shared prefixes are neighbours."""
        decided = [(request, self._decision(request)) for request in requests]

        def key(pair: tuple[BatchRequest, RoutingDecision | Exception]) -> tuple[str, str]:
            request, decision = pair
            first = decision.experts[0] if isinstance(decision, RoutingDecision) else ""
            return first, "\x1e".join(m.content for m in request.call.generation.messages)

        return sorted(decided, key=key)

    def _decision(self, request: BatchRequest) -> RoutingDecision | Exception:
        call = request.call
        pinned = None if call.model == self._routed_model else call.model
        try:
            return self._composition.decide(call.generation, pinned)
        except Exception as error:  # noqa: BLE001 - a defect, too, is a line of its request
            return error

    async def _answer(self, request: BatchRequest, decision: RoutingDecision | Exception) -> None:
        tokens = 0
        try:
            if isinstance(decision, Exception):
                raise decision
            generation = request.call.generation
            async with self._composition.answering(generation, decision) as answer:
                experts = answer.decision.experts
                whole = await collect(experts[0], answer.deltas)
            model = experts[0] if len(experts) == 1 else self._routed_model
            line = answer_line(request, answer, model, whole)
            tokens = whole.usage.total_tokens if whole.usage else 0
        except Exception as error:  # noqa: BLE001 - as above; `answer_for` logs it
            line = error_line(request, error)
        self.n_tokens += tokens
        self._journal.add(request.custom_id, line)
        self._told(1, tokens)
