"""How often a key may ask, and for how many tokens: requests and tokens a minute.

Limits go by the generic cell rate algorithm: one number for each limit, the time at which the
key will have its whole minute again. Of the alternatives, a fixed window lets two minutes' worth
through around its edge at every turn of the minute, and a sliding log keeps every request. Here a
key may spend its minute at once, is refilled evenly, never gets more than its rate on average,
and the wait that a refusal tells is exact. A correction of what was taken is a subtraction.

A request for more tokens than a whole minute's is let through when the minute is whole, and pays
for all of them in the time after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from coe.errors import RateLimited
from coe.store.keys import ApiKey

MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a key after a request; None where it is not limited."""

    requests: int | None = None
    tokens: int | None = None
    requests_reset_s: float = 0.0
    """Until the whole minute's worth is there again."""
    tokens_reset_s: float = 0.0


class Limits(Protocol):
    """Holds keys to their requests and tokens a minute."""

    async def take(self, key: ApiKey, n_tokens: int) -> Allowance:
        """Takes one request and its tokens, or neither. Raises `RateLimited`."""
        ...

    async def correct(self, key: ApiKey, taken_tokens: int, used_tokens: int) -> None:
        """Gives back what a request took and did not use, or takes what it used beyond."""
        ...


class MemoryLimits:
    """Of this process alone."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._full_at: dict[str, tuple[int, int]] = {}
        """By key, when its requests and its tokens are all there again, in microseconds."""

    async def take(self, key: ApiKey, n_tokens: int) -> Allowance:
        rpm, tpm = key.limits.rpm, key.limits.tpm
        if rpm is None and tpm is None:
            return UNLIMITED
        now = self._now()
        requests_at, tokens_at = self._full_at.get(key.id, (now, now))
        requests_at, requests_wait = taken(requests_at, now, 1, rpm)
        tokens_at, tokens_wait = taken(tokens_at, now, n_tokens, tpm)
        if requests_wait or tokens_wait:
            raise refusal(key, requests_wait, tokens_wait)
        self._full_at[key.id] = (requests_at, tokens_at)
        return allowance(key, now, requests_at, tokens_at)

    async def correct(self, key: ApiKey, taken_tokens: int, used_tokens: int) -> None:
        tpm = key.limits.tpm
        if tpm is None or taken_tokens == used_tokens:
            return
        now = self._now()
        requests_at, tokens_at = self._full_at.get(key.id, (now, now))
        tokens_at = corrected(tokens_at, now, used_tokens - taken_tokens, tpm)
        self._full_at[key.id] = (requests_at, tokens_at)

    def _now(self) -> int:
        return int(self._monotonic() * 1e6)


UNLIMITED = Allowance()


def taken(full_at: int, now: int, n: int, per_minute: int | None) -> tuple[int, int]:
    """When all is there again after n were taken, and the wait if they cannot be; microseconds."""
    if per_minute is None:
        return now, 0
    start = max(full_at, now)
    until = start + n * MINUTE_US // per_minute
    if start == now or until <= now + MINUTE_US:
        return until, 0
    return start, min(until - now - MINUTE_US, start - now)


def corrected(full_at: int, now: int, n_more: int, per_minute: int) -> int:
    """When all is there again if n more, or fewer, were taken than was thought."""
    return max(full_at, now) + n_more * MINUTE_US // per_minute


def allowance(key: ApiKey, now: int, requests_at: int, tokens_at: int) -> Allowance:
    """What is left, from when all is there again."""
    rpm, tpm = key.limits.rpm, key.limits.tpm
    return Allowance(
        None if rpm is None else _left(requests_at, now, rpm),
        None if tpm is None else _left(tokens_at, now, tpm),
        max(0, requests_at - now) / 1e6,
        max(0, tokens_at - now) / 1e6,
    )


def refusal(key: ApiKey, requests_wait: int, tokens_wait: int) -> RateLimited:
    """The error for who has to wait so many microseconds."""
    rpm, tpm = key.limits.rpm, key.limits.tpm
    limit = f"{rpm} requests" if requests_wait >= tokens_wait else f"{tpm} tokens"
    message = f"key {key.name!r} may have {limit} a minute"
    return RateLimited(message, max(requests_wait, tokens_wait) / 1e6)


def _left(full_at: int, now: int, per_minute: int) -> int:
    return max(0, (MINUTE_US - max(0, full_at - now)) * per_minute // MINUTE_US)
