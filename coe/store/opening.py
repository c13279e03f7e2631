"""The store as a whole: what the gateway opens at its start and closes at its end."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from coe.errors import ConfigError, StoreError
from coe.store.batches import Batches
from coe.store.cache import MemoryCache, ResponseCache
from coe.store.database import Database
from coe.store.decisions import DecisionsLog
from coe.store.files import Files
from coe.store.keys import Keys, SqliteKeys
from coe.store.limits import Limits, MemoryLimits
from coe.store.link import RedisLink
from coe.store.redis_cache import SharedCache
from coe.store.redis_keys import SharedKeys
from coe.store.redis_limits import SharedLimits
from coe.store.redis_spend import SharedSpend
from coe.store.settings import StoreSettings
from coe.store.spend import Spend, SqliteSpend

Clock = Callable[[], float]
FILE = "store.db"
_COMMAND_S = 2.0
"""How long a command waits for Redis."""


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the store is doing. None of it fails a request."""

    redis: Literal["off", "up", "away"]
    redis_trouble: str | None
    """Why it is away: until it is back this process goes on alone."""
    disk_trouble: str | None
    """Why the last commit failed."""
    n_lost_rows: int
    """Of the log of decisions, since the start."""
    n_queued_rows: int

    @property
    def is_whole(self) -> bool:
        return self.redis != "away" and self.disk_trouble is None


@dataclass(frozen=True, slots=True)
class Store:
    """All of the gateway's state."""

    keys: Keys
    spend: Spend
    limits: Limits
    cache: ResponseCache
    files: Files
    batches: Batches
    decisions: DecisionsLog
    _database: Database
    _link: RedisLink | None = None
    _folder: TemporaryDirectory[str] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Where it all is. A folder within it, on the same file system, may hold what a concern of
        the gateway's keeps beside its rows.
        """
        return self._database.file.parent

    async def flush(self) -> None:
        """Returns when all that was put is on the disk. Raises `StoreError`."""
        await self._database.flush()

    async def health(self) -> StoreHealth:
        """Asks Redis, unless it was away a moment ago."""
        redis: Literal["off", "up", "away"] = "off"
        if self._link is not None:
            redis = "up" if await self._link.is_up() else "away"
        database = self._database
        trouble = None if self._link is None else self._link.trouble
        return StoreHealth(redis, trouble, database.trouble, database.n_lost, database.n_queued)

    async def close(self) -> None:
        """Writes what is left. Nothing may be asked afterwards."""
        if self._link is not None:
            await self._link.close()
        await asyncio.to_thread(self._database.close)
        if self._folder is not None:
            self._folder.cleanup()


def open_store(
    settings: StoreSettings, clock: Clock = time.time, monotonic: Clock = time.monotonic
) -> Store:
    """Opens everything. Blocks for some milliseconds, and does not wait for Redis.

    `clock`: seconds since the epoch. Raises `ConfigError`.
    """
    temporary = TemporaryDirectory(prefix="coe-") if settings.path is None else None
    folder = Path(temporary.name) if temporary else Path(settings.path or "")
    link = None
    if settings.redis_url is not None:
        link = RedisLink(
            settings.redis_url, settings.redis_timeout_s, settings.redis_retry_s, monotonic
        )
    database = Database(_made(folder) / FILE)
    try:
        files = Files(database, folder / "files", clock)
        keys = SqliteKeys(database, clock, monotonic)
        spend = SqliteSpend(database, settings.reservation_s, clock)
        decisions = DecisionsLog(
            database,
            settings.decisions_rows,
            settings.decisions_age_s,
            settings.keeps_text,
            clock,
        )
        shared = _shared(settings, link, database, (keys, spend), (clock, monotonic))
    except BaseException:
        database.close()
        raise
    rest = (files, Batches(database, clock), decisions)
    return Store(*shared, *rest, database, link, temporary)


@asynccontextmanager
async def open_keys(folder: Path, redis_url: str | None = None) -> AsyncIterator[Keys]:
    """The keys alone, for a command that runs beside the gateway.

    Raises `ConfigError`, and at its end `StoreError` if other replicas could not be told.
    """
    link = None if redis_url is None else RedisLink(redis_url, _COMMAND_S)
    database = Database(_made(folder) / FILE, is_exclusive=False)
    try:
        local = SqliteKeys(database)
        yield local if link is None else SharedKeys(local, link)
        if link is not None and link.trouble is not None:
            raise StoreError(
                f"Redis is away ({link.trouble}): this is written in {folder}, and other replicas "
                "hear of it once a gateway that keeps its state there reaches Redis"
            )
    finally:
        if link is not None:
            await link.close()
        database.close()


def _shared(
    settings: StoreSettings,
    link: RedisLink | None,
    database: Database,
    local: tuple[SqliteKeys, SqliteSpend],
    clocks: tuple[Clock, Clock],
) -> tuple[Keys, Spend, Limits, ResponseCache]:
    """What replicas agree on, if there are any."""
    keys, spend = local
    clock, monotonic = clocks
    limits = MemoryLimits(monotonic)
    ttl_s, entry_bytes = settings.cache_ttl_s, settings.cache_entry_bytes
    if link is None:
        return keys, spend, limits, MemoryCache(settings.cache_bytes, ttl_s, entry_bytes, monotonic)
    prefix = settings.redis_prefix
    return (
        SharedKeys(keys, link, prefix, monotonic),
        SharedSpend(spend, link, _replica(database), prefix, clock),
        SharedLimits(link, limits, prefix),
        SharedCache(link, ttl_s, entry_bytes, prefix),
    )


def _replica(database: Database) -> str:
    """The id of this file, of which a copy must not be used by another replica."""

    def known(connection: sqlite3.Connection) -> str | None:
        row = connection.execute("SELECT value FROM meta WHERE name = 'replica'").fetchone()
        return None if row is None else str(row[0])

    if database.read_now(known) is None:
        database.write_now(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('replica', ?)", (secrets.token_hex(8),)
            )
        )
    return str(database.read_now(known))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be used for state: {error}", file=str(folder)) from None
    return folder
