"""Keys that several replicas share: each has all of them, and Redis what changed last.

Two copies are made one by taking every key that either has, revoked if it is in one of them. So
copies may meet in any order, and a Redis that lost its memory gets it back from any replica.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from coe.errors import ConfigError, StoreError
from coe.store.keys import KNOWN_S, UNKNOWN_S, ApiKey, KeyLimits, SqliteKeys, from_record, to_record
from coe.store.link import RedisAway, RedisLink

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LOG = logging.getLogger(__name__)


class SharedKeys:
    """The keys of this replica, kept the same as those of the others."""

    def __init__(
        self,
        local: SqliteKeys,
        link: RedisLink,
        prefix: str = "coe:",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._link = link
        self._records = f"{prefix}keys"
        self._version = f"{prefix}keys:version"
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._seen: tuple[bytes | None, str] | None = None
        """The versions, of Redis and of the file, that were last found to be the same."""
        self._synced_at = float("-inf")

    async def create(
        self, name: str, limits: KeyLimits, lifetime_s: float | None = None
    ) -> tuple[str, ApiKey]:
        made = await self._local.create(name, limits, lifetime_s)
        await self._sync(0.0)
        return made

    async def revoke(self, name_or_id: str) -> ApiKey:
        await self._sync(0.0)
        revoked = await self._local.revoke(name_or_id)
        await self._sync(0.0)
        return revoked

    async def all(self) -> tuple[ApiKey, ...]:
        await self._sync(0.0)
        return await self._local.all()

    async def find(self, authorization: bytes | None) -> ApiKey | None:
        if self._monotonic() - self._synced_at >= KNOWN_S and not self._lock.locked():
            await self._sync(KNOWN_S)
        key = await self._local.find(authorization)
        if key is None and authorization and self._monotonic() - self._synced_at >= UNKNOWN_S:
            await self._sync(UNKNOWN_S)
            key = await self._local.find(authorization)
        return key

    async def _sync(self, older_than_s: float) -> None:
        async with self._lock:
            if self._monotonic() - self._synced_at < older_than_s:
                return
            # Both are told of where they arise; what is known stays.
            with suppress(RedisAway, StoreError):
                await self._meet()
            self._synced_at = self._monotonic()

    async def _meet(self) -> None:
        version = await self._link.ask(self._current_version)
        await self._local.refresh(UNKNOWN_S)
        if (version, self._local.generation) == self._seen:
            return
        shared = _parsed(await self._link.ask(self._all_records))
        known = {key.id: key for key in self._local.known}
        fresh = [key for id_, key in shared.items() if _adds(key, known.get(id_))]
        if fresh:
            await self._local.absorb(fresh)
            known = {key.id: key for key in self._local.known}
        unheard = [key for id_, key in known.items() if _adds(key, shared.get(id_))]
        if unheard or version is None:
            version = secrets.token_hex(8).encode()
            await self._link.ask(lambda redis: self._publish(redis, version, unheard))
        self._seen = (version, self._local.generation)

    async def _current_version(self, redis: Redis) -> bytes | None:
        return cast("bytes | None", await redis.get(self._version))

    async def _all_records(self, redis: Redis) -> Mapping[bytes, bytes]:
        records = await cast("Awaitable[Any]", redis.hgetall(self._records))
        return cast("Mapping[bytes, bytes]", records)

    async def _publish(self, redis: Redis, version: bytes, keys: list[ApiKey]) -> None:
        async with redis.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.hset(self._records, key.id, json.dumps(to_record(key)))
            pipe.set(self._version, version)
            await pipe.execute()


def _adds(key: ApiKey, other: ApiKey | None) -> bool:
    return other is None or (key.revoked_s is not None and other.revoked_s is None)


def _parsed(records: Mapping[bytes, bytes]) -> dict[str, ApiKey]:
    keys = {}
    for id_, record in records.items():
        try:
            key = from_record(json.loads(record))
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            _LOG.warning("Redis has a key %r that cannot be read: %s", id_, error)
            continue
        keys[key.id] = key
    return keys
