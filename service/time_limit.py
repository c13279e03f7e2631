"""How long a request may take, and whose limit that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coe.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """When a request's time is up, and whose limit that is."""

    until_s: float
    """On the event loop's clock."""
    timeout_s: float
    is_clients: bool = False

    @classmethod
    def from_now(cls, timeout_s: float) -> TimeLimit:
        return cls(asyncio.get_running_loop().time() + timeout_s, timeout_s)

    @property
    def arrived_s(self) -> float:
        return self.until_s - self.timeout_s

    def for_client(self, timeout_s: float | None) -> TimeLimit:
        """The client's own limit if it is the shorter one."""
        if timeout_s is None or timeout_s >= self.timeout_s:
            return self
        return TimeLimit(self.arrived_s + timeout_s, timeout_s, is_clients=True)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Raises `DeadlineExceeded` out of a block that is not over in time."""
        try:
            async with asyncio.timeout_at(self.until_s) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            gateway = "have the gateway's request timeout raised"
            whose = "allow more time" if self.is_clients else gateway
            raise DeadlineExceeded(
                f"no whole answer within {self.timeout_s:g} s; lower max_tokens, or {whose}"
            ) from None
