"""How long a request may take, and whose limit that is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

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

    def __call__(self) -> _InTime:
        """Raises `DeadlineExceeded` out of a block that is not over in time."""
        return _InTime(self)

    @property
    def exceeded(self) -> DeadlineExceeded:
        gateway = "have the gateway's request timeout raised"
        whose = "allow more time" if self.is_clients else gateway
        return DeadlineExceeded(
            f"no whole answer within {self.timeout_s:g} s; lower max_tokens, or {whose}"
        )


class _InTime:
    __slots__ = ("_limit", "_timeout")

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._timeout = asyncio.timeout_at(limit.until_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._limit.exceeded from None
