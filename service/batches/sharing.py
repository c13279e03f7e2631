"""A batch answered beside whatever else a gateway serves, which goes first.

1. Every request is routed, and those of the same experts come together.
2. One group after the other is handed out, a bounded number of requests at a time, at a priority
   below every client's. So an expert is sent for only if there is much for it to do.
3. A group whose experts are there anyway is handed out at once, in between.

How long experts that are not there are waited for is the scheduler's to say: those who ask online
have them first, and the age bound sees to it that a batch has them at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from coe.engines.base import EngineState
from coe.errors import ShuttingDown
from coe.service.batches.answering import Asker
from coe.service.batches.assignments import Assignments
from coe.service.batches.journal import Journal
from coe.service.batches.lines import BatchFile, BatchRequest
from coe.service.batches.pausing import pause_s
from coe.service.batches.paying import Payer
from coe.service.batches.running import CHUNK, cut, keep_synced, read_ordered, together
from coe.service.batches.written import error_line
from coe.service.control import MOST_URGENT
from coe.service.gateway import Gateway

BELOW_ALL = -2 * MOST_URGENT - 1
"""Added to a line's own priority: what is left is below that of any client."""
READ_AHEAD = 256
LOOK_EVERY_S = 1.0
"""How soon it is noticed that experts have come for somebody else."""


@dataclass(slots=True, eq=False)
class _Group:
    """Requests of the same experts."""

    experts: tuple[str, ...]
    left: deque[str]
    """Custom ids."""
    read: deque[BatchRequest] = field(default_factory=deque)
    n_out: int = 0
    """Handed out, and not answered."""

    @property
    def has_more(self) -> bool:
        return bool(self.left or self.read)


class SharedRun:
    """Answers what a journal lacks."""

    def __init__(
        self,
        gateway: Gateway,
        requests: BatchFile,
        journal: Journal,
        payer: Payer,
        in_flight: int,
        told: Callable[[], None],
    ) -> None:
        """`told` is called after each line."""
        self._gateway = gateway
        self._requests = requests
        self._journal = journal
        self._payer = payer
        self._in_flight = in_flight
        self._told = told
        self._asker = self._new_asker()
        self._assignments = Assignments(self._asker)
        self._freed = asyncio.Event()
        self._n_out = 0

    async def answer(self) -> None:
        """A failure is a line of its own. Leaves nothing running, however it ends.

        Raises `ShuttingDown`, and `OSError` where the disk fails; what was finished until then
        stays in the journal.
        """
        left = [id_ for id_ in self._requests.request_ids if id_ not in self._journal.done]
        async with together() as tasks:
            is_over = asyncio.Event()
            tasks.create_task(keep_synced(self._journal, is_over))
            for chunk in cut(left, CHUNK):
                await asyncio.to_thread(self._decide, chunk)
            await self._answer_all(self._grouped(left), tasks)
            is_over.set()

    def _decide(self, custom_ids: Sequence[str]) -> None:
        self._assignments.decide(self._requests.requests(custom_ids))

    def _grouped(self, custom_ids: Sequence[str]) -> list[_Group]:
        """Those whose experts are there first, then the largest."""
        groups: dict[tuple[str, ...], _Group] = {}
        for custom_id, experts in zip(
            custom_ids, self._assignments.experts(custom_ids), strict=True
        ):
            groups.setdefault(experts, _Group(experts, deque())).left.append(custom_id)
        present = self._present()
        return sorted(
            groups.values(), key=lambda one: (not present.issuperset(one.experts), -len(one.left))
        )

    async def _answer_all(self, groups: Sequence[_Group], tasks: asyncio.TaskGroup) -> None:
        while any(group.has_more or group.n_out for group in groups):
            self._freed.clear()
            for group in self._open(groups):
                await self._hand_out(group, tasks)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), LOOK_EVERY_S)

    def _open(self, groups: Sequence[_Group]) -> Iterator[_Group]:
        """The one whose turn it is, and those whose experts are there."""
        waiting = [group for group in groups if group.has_more]
        present = self._present()
        yield from waiting[:1]
        yield from (group for group in waiting[1:] if present.issuperset(group.experts))

    def _present(self) -> set[str]:
        """A hint alone: who comes or goes meanwhile is waited for."""
        engines = self._asker.composition.engines
        return {id_ for id_, engine in engines.items() if engine.state is EngineState.READY}

    async def _hand_out(self, group: _Group, tasks: asyncio.TaskGroup) -> None:
        most = 2 * self._in_flight
        while group.has_more and group.n_out < self._in_flight and self._n_out < most:
            if not group.read:
                ids = [group.left.popleft() for _ in range(min(READ_AHEAD, len(group.left)))]
                group.read.extend(await asyncio.to_thread(read_ordered, self._requests, ids))
            group.n_out += 1
            self._n_out += 1
            tasks.create_task(self._answer(group, _lowered(group.read.popleft())))

    async def _answer(self, group: _Group, request: BatchRequest) -> None:
        self._journal.add(request.custom_id, await self._line(request))
        group.n_out -= 1
        self._n_out -= 1
        self._freed.set()
        self._told()

    async def _line(self, request: BatchRequest) -> bytes:
        """Asks until there is an answer, or a failure that waiting does not mend."""
        asker, n_pauses = self._asker, 0
        while True:
            try:
                decision = self._assignments.decision(request)
                if self._asker.composition is not self._gateway.composition:
                    # It was loaded anew since everything was decided.
                    asker = self._new_asker()
                    decision = await asyncio.to_thread(asker.decide, request)
                if isinstance(decision, Exception):
                    raise decision
                return await self._payer.line(asker, request, decision)
            except ShuttingDown:
                if asker.composition is self._gateway.composition:
                    raise
            except Exception as error:  # noqa: BLE001 - a defect is a line, too
                wait_s = pause_s(error, n_pauses)
                if wait_s is None:
                    return error_line(request, error)
                n_pauses += 1
                await asyncio.sleep(wait_s)

    def _new_asker(self) -> Asker:
        return Asker(self._gateway.composition, self._gateway.settings.model_name)


def _lowered(request: BatchRequest) -> BatchRequest:
    generation = request.call.generation
    generation = replace(generation, priority=generation.priority + BELOW_ALL)
    return replace(request, call=replace(request.call, generation=generation))
