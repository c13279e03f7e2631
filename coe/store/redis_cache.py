"""Responses that several replicas share. While Redis is away nothing is cached.

How many are kept is Redis's to decide: set its `maxmemory`, with the policy `allkeys-lru`. All
else that is kept there can be lost, too, and comes back from the replicas.
"""

from __future__ import annotations

import json
from typing import cast

from coe.store.cache import CachedResponse
from coe.store.link import RedisAway, RedisLink


class SharedCache:
    """An entry is one line, of its key and headers, and then the body as it was sent."""

    def __init__(
        self, link: RedisLink, ttl_s: float, max_entry_bytes: int, prefix: str = "coe:"
    ) -> None:
        self._link = link
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._max_entry_bytes = max_entry_bytes
        self._prefix = f"{prefix}cache:"

    async def get(self, key: str) -> CachedResponse | None:
        try:
            entry = await self._link.ask(lambda redis: redis.get(self._prefix + key))
        except RedisAway:
            return None
        return None if entry is None else decoded(key, cast("bytes", entry))

    async def put(self, key: str, response: CachedResponse) -> None:
        if response.n_bytes > self._max_entry_bytes:
            return
        entry = encoded(key, response)
        try:
            await self._link.ask(
                lambda redis: redis.set(self._prefix + key, entry, px=self._ttl_ms)
            )
        except RedisAway:
            return


def encoded(key: str, response: CachedResponse) -> bytes:
    headers = [[part.decode("latin-1") for part in header] for header in response.headers]
    return json.dumps([key, headers]).encode() + b"\n" + response.body


def decoded(key: str, entry: bytes) -> CachedResponse | None:
    """None if it is not what was kept under this key, whoever may have put it there."""
    head, line_break, body = entry.partition(b"\n")
    try:
        kept_under, raw = json.loads(head)
        headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in raw)
    except (ValueError, TypeError, AttributeError):
        return None
    if kept_under != key or not line_break:
        return None
    return CachedResponse(body, headers)
