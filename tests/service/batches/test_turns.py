"""Tenants take turns, and refusals are waited out."""

from __future__ import annotations

import asyncio

from coe.engines.upstream_busy import UpstreamBusy
from coe.errors import BudgetExceeded, QueueFull, RateLimited, UpstreamError
from coe.service.batches.pausing import MOST_PAUSES, pause_s
from coe.service.batches.turns import Turns


class Hall:
    """Who has begun, in order, and how to end them."""

    def __init__(self, most: int) -> None:
        self._turns = Turns(most)
        self.began: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def enter(self, *tenants: str) -> None:
        self.tasks += [asyncio.create_task(self._take(tenant)) for tenant in tenants]
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self, *places: int) -> None:
        for place in places:
            self.tasks[place].cancel()
        await self.settle()

    async def _take(self, tenant: str) -> None:
        async with self._turns.turn(tenant):
            self.began.append(tenant)
            await asyncio.Event().wait()


async def test_turns_go_to_the_tenant_with_the_fewest_running() -> None:
    hall = Hall(2)
    await hall.enter("a", "a", "a", "b", "a")
    assert hall.began == ["a", "a"]
    await hall.end(0)
    assert hall.began == ["a", "a", "b"]
    await hall.end(1, 3)
    assert hall.began == ["a", "a", "b", "a", "a"]
    await hall.end(2, 4)
    await hall.enter("c")
    assert hall.began[-1] == "c"
    await hall.end(5)


async def test_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    hall = Hall(1)
    await hall.enter("a", "b", "c")
    await hall.end(1)
    assert hall.began == ["a"]
    await hall.end(0)
    assert hall.began == ["a", "c"]
    await hall.end(2)
    await hall.enter("d")
    assert hall.began == ["a", "c", "d"]
    await hall.end(3)


def test_pause_is_as_long_as_told_and_ends_for_what_stays_away() -> None:
    busy = UpstreamBusy("a", "no", 429, 5.0)
    assert pause_s(busy, 0) == 5.0
    assert pause_s(busy, MOST_PAUSES) is None
    assert pause_s(QueueFull("full", 1e9), 10 * MOST_PAUSES) == 60.0
    assert pause_s(RateLimited("too often", 0.0), 0) == 0.1
    for error in (BudgetExceeded("spent"), UpstreamError("a", "broken"), LookupError()):
        assert pause_s(error, 0) is None
