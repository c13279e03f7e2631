"""Responses kept for requests that are exactly the same.

What a request is the same as is decided by `cache_key` alone: by what was asked, by who asked,
and by what would answer. Two tenants never share a response.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

Headers = tuple[tuple[bytes, bytes], ...]
_EXACT = 2**53
"""Whole floats below are the integers that they look like."""
_ENTRY_BYTES = 400
"""What an entry takes besides its bytes, about."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response as it was sent."""

    body: bytes
    """Of a stream, all of its events."""
    headers: Headers = ()
    """Those that have to be sent again."""

    @property
    def n_bytes(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class ResponseCache(Protocol):
    """Keeps responses for a while, as many as fit. Losing one is never an error."""

    async def get(self, key: str) -> CachedResponse | None: ...

    async def put(self, key: str, response: CachedResponse) -> None:
        """Keeps it unless it is too large."""
        ...


def cache_key(request: Mapping[str, Any], tenant: str, experts: Iterable[str], router: str) -> str:
    """What a response is kept under, in hex.

    `experts`: the revision of each that may answer; `router`: the revision of the one that
    chooses. A number is its value, so that 1, 1.0 and 1e0 are one; the order of keys does not
    matter, all else does. Raises ValueError or TypeError for what is not JSON.
    """
    parts = (tenant, router, *sorted(set(experts)))
    digest = hashlib.sha256()
    for raw in (_canonical_json(request), *(p.encode("utf-8", "surrogatepass") for p in parts)):
        # With its length before it, no part can pose as the end of the one before.
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()


def _canonical_json(request: Mapping[str, Any]) -> bytes:
    canonical = _canonical(dict(request))
    try:
        return orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Integers of more than 64 bits and halves of characters, which are JSON all the same.
        text = json.dumps(canonical, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return text.encode("utf-8", "surrogatepass")


def _canonical(value: Any) -> Any:
    """Equal for equal numbers. Lets through what JSON has, and nothing that only looks like it."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        if not all(type(name) is str for name in value):
            raise TypeError("the names in a JSON object are strings")
        return {name: _canonical(item) for name, item in value.items()}
    if kind is list or kind is tuple:
        return [_canonical(item) for item in value]
    if kind is not float:
        raise TypeError(f"{kind.__name__} is not JSON")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


class MemoryCache:
    """Of this process alone: what was asked for least lately goes first."""

    def __init__(
        self,
        max_bytes: int,
        ttl_s: float,
        max_entry_bytes: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_entry_bytes = max_bytes if max_entry_bytes is None else max_entry_bytes
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._entries: OrderedDict[str, tuple[CachedResponse, float]] = OrderedDict()
        """With the time at which each is too old."""
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """What all entries take, about."""
        return self._n_bytes

    async def get(self, key: str) -> CachedResponse | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        response, until = entry
        if self._monotonic() >= until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return response

    async def put(self, key: str, response: CachedResponse) -> None:
        if key in self._entries:
            self._drop(key)
        if response.n_bytes > self._max_entry_bytes or _weight(response) > self._max_bytes:
            return
        self._entries[key] = (response, self._monotonic() + self._ttl_s)
        self._n_bytes += _weight(response)
        while self._n_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        response, _ = self._entries.pop(key)
        self._n_bytes -= _weight(response)


def _weight(response: CachedResponse) -> int:
    return response.n_bytes + _ENTRY_BYTES
