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
from coe.store.ledger import LedgerAway
from coe.store.ledger_responses import LedgerResponses
from coe.store.ledger_spend import LedgerSpend
from coe.store.limits import Limits, MemoryLimits
from coe.store.link import RedisLink
from coe.store.redis_cache import SharedCache
from coe.store.redis_keys import SharedKeys
from coe.store.redis_limits import SharedLimits
from coe.store.redis_spend import SharedSpend
from coe.store.settings import StoreSettings
from coe.store.sharing import Shared, open_shared
from coe.store.spend import Spend, SqliteSpend

Clock = Callable[[], float]
FILE = "store.db"
FILES = "files"
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
    responses: LedgerResponses | None
    """Those that the processes of one gateway share; None: there is only one process."""
    _database: Database
    _shared: Shared | None = None
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
        if self._shared is not None:
            self._shared.close()
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
    is_alone, worker = settings.worker is None, settings.worker or 0
    database = Database(made(folder) / FILE, is_exclusive=is_alone)
    together = None
    try:
        files = Files(database, folder / FILES, clock, sweeps=is_alone)
        keys = SqliteKeys(database, clock, monotonic)
        spend = SqliteSpend(database, settings.reservation_s, clock, worker)
        together = None if is_alone else open_shared(folder)
        decisions = DecisionsLog(
            database,
            settings.decisions_rows,
            settings.decisions_age_s,
            settings.keeps_text,
            clock,
        )
        local = _Local(database, keys, spend, together)
        shared = _shared(settings, link, local, (clock, monotonic))
    except BaseException:
        if together is not None:
            together.close()
        database.close()
        raise
    responses = None if together is None else together.responses
    rest = (files, Batches(database, clock), decisions, responses)
    return Store(*shared, *rest, database, together, link, temporary)


@asynccontextmanager
async def open_keys(folder: Path, redis_url: str | None = None) -> AsyncIterator[Keys]:
    """The keys alone, for a command that runs beside the gateway.

    Raises `ConfigError`, and at its end `StoreError` if other replicas could not be told.
    """
    link = None if redis_url is None else RedisLink(redis_url, _COMMAND_S)
    database = Database(made(folder) / FILE, is_exclusive=False)
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


@dataclass(frozen=True, slots=True)
class _Local:
    """What one process has of its own, and with the others of its gateway."""

    database: Database
    keys: SqliteKeys
    spend: SqliteSpend
    together: Shared | None


def _shared(
    settings: StoreSettings,
    link: RedisLink | None,
    local: _Local,
    clocks: tuple[Clock, Clock],
) -> tuple[Keys, Spend, Limits, ResponseCache]:
    """What processes and replicas agree on, if there are any."""
    clock, monotonic = clocks
    limits: Limits = MemoryLimits(monotonic)
    if local.together is not None:
        limits = local.together.limits(limits, monotonic)
    ttl_s, entry_bytes = settings.cache_ttl_s, settings.cache_entry_bytes
    if link is None:
        cache = MemoryCache(settings.cache_bytes, ttl_s, entry_bytes, monotonic)
        return local.keys, _spend_of(local, settings, clock), limits, cache
    prefix, replica = settings.redis_prefix, _replica(local.database)
    if settings.worker:
        replica = f"{replica}.{settings.worker}"
    return (
        SharedKeys(local.keys, link, prefix, monotonic),
        SharedSpend(local.spend, link, replica, prefix, clock),
        SharedLimits(link, limits, prefix),
        SharedCache(link, ttl_s, entry_bytes, prefix),
    )


def _spend_of(local: _Local, settings: StoreSettings, clock: Clock) -> Spend:
    if local.together is None:
        return local.spend
    try:
        return LedgerSpend(local.spend, local.together.ledger, settings.worker or 0, clock)
    except LedgerAway as error:
        problem = f"cannot be used for state: {error}"
        raise ConfigError(problem, file=str(local.database.file.parent)) from None


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


def made(folder: Path) -> Path:
    """The folder, for its owner alone. Raises `ConfigError` if it cannot be had."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be used for state: {error}", file=str(folder)) from None
    return folder
