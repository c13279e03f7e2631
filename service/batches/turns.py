"""Whose batch is next: one of the tenant that has the fewest running, the oldest first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many at once. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = Counter[str]()
        self._waiting: dict[asyncio.Future[None], str] = {}
        """Oldest first."""

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits until it is this one's turn, which lasts as long as the block."""
        called = asyncio.get_running_loop().create_future()
        self._waiting[called] = tenant
        self._call()
        try:
            await called
            yield
        finally:
            if self._waiting.pop(called, None) is None:
                self._running[tenant] -= 1
            self._call()

    def _call(self) -> None:
        while self._waiting and self._running.total() < self._most:
            called = min(self._waiting, key=lambda one: self._running[self._waiting[one]])
            self._running[self._waiting.pop(called)] += 1
            if not called.done():
                called.set_result(None)
