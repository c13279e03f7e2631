"""API keys: who may ask, how often, for how much, and whom.

A key is shown once, when it is made; what is kept is its SHA-256, which for 256 random bits needs
neither salt nor stretching.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

from coe.errors import ConfigError, StoreError
from coe.store.database import Database

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)
MOST_ASKED = 10**9
"""Of requests or tokens a minute."""
MOST_URGENT = 10
"""Priorities go from minus this to this."""
KNOWN_S = 1.0
"""A key that was revoked elsewhere is refused this much later at most."""
UNKNOWN_S = 0.1
"""How often the file is looked into for keys that are not known."""

_TOKEN = re.compile(rb"coe-[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_COLUMNS = (
    "id, digest, name, created_s, rpm, tpm, budget_usd, budget_period, experts, max_priority, "
    "expires_s, revoked_s"
)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do; None does not limit it."""

    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, of prompts and completions."""
    budget_usd: float | None = None
    budget_period: Period = "month"
    """When the budget renews: each day or month of UTC, or never."""
    experts: tuple[str, ...] | None = None
    """Those it may ask."""
    max_priority: int | None = None
    """The highest that its requests go at, whatever they ask for."""

    def __post_init__(self) -> None:
        for name, value in (("rpm", self.rpm), ("tpm", self.tpm)):
            if value is not None and not 1 <= value <= MOST_ASKED:
                raise ConfigError(f"must be 1 to {MOST_ASKED}, not {value}", key=name)
        if self.budget_usd is not None and not 0 <= self.budget_usd <= 1e6:
            raise ConfigError(f"must be 0 to 1000000, not {self.budget_usd}", key="budget_usd")
        if self.budget_period not in PERIODS:
            problem = f"must be one of {', '.join(PERIODS)}, not {self.budget_period}"
            raise ConfigError(problem, key="budget_period")
        if self.experts is not None and not all(self.experts):
            raise ConfigError("has an empty name in it", key="experts")
        if self.max_priority is not None and abs(self.max_priority) > MOST_URGENT:
            problem = f"must be -{MOST_URGENT} to {MOST_URGENT}, not {self.max_priority}"
            raise ConfigError(problem, key="max_priority")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without what opens the door."""

    id: str
    name: str
    """Of its tenant, whose keys share what is cached, files and batches."""
    digest: bytes = field(repr=False)
    """SHA-256 of the key."""
    created_s: float
    limits: KeyLimits = KeyLimits()
    expires_s: float | None = None
    revoked_s: float | None = None
    """When it was revoked; None: it was not."""

    @property
    def tenant(self) -> str:
        return self.name

    def is_usable(self, now_s: float) -> bool:
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)


class Keys(Protocol):
    """Which keys there are. What one process creates or revokes, others soon know."""

    async def create(
        self, name: str, limits: KeyLimits, lifetime_s: float | None = None
    ) -> tuple[str, ApiKey]:
        """The key itself, which is shown this once, and its record. Durable on return."""
        ...

    async def revoke(self, name_or_id: str) -> ApiKey:
        """Durable on return. Raises `ConfigError` if it is not clear which key is meant."""
        ...

    async def all(self) -> tuple[ApiKey, ...]:
        """Oldest first, with those that expired or were revoked."""
        ...

    async def find(self, authorization: bytes | None) -> ApiKey | None:
        """Whose header this is; None if it is no usable key. Any bytes will do: never raises."""
        ...


class SqliteKeys:
    """Keys of one file, all of them in memory."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Blocks while keys are read. `clock`: seconds since the epoch."""
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self.generation, self._by_digest = database.read_now(_load)
        self._read_at = monotonic()

    async def create(
        self, name: str, limits: KeyLimits, lifetime_s: float | None = None
    ) -> tuple[str, ApiKey]:
        if not _NAME.fullmatch(name):
            problem = f"must be up to 64 letters, digits and ._@-, not {name!r}"
            raise ConfigError(problem, key="name")
        if lifetime_s is not None and not lifetime_s > 0:
            raise ConfigError(f"must be more than 0, not {lifetime_s}", key="expires")
        token = f"coe-{secrets.token_urlsafe(32)}"
        now = self._clock()
        key = ApiKey(
            f"key_{secrets.token_hex(8)}",
            name,
            hashlib.sha256(token.encode()).digest(),
            now,
            limits,
            None if lifetime_s is None else now + lifetime_s,
        )
        await self.absorb((key,))
        return token, key

    async def revoke(self, name_or_id: str) -> ApiKey:
        keys = await self.all()
        meant = [key for key in keys if key.id == name_or_id] or [
            key for key in keys if key.name == name_or_id and key.revoked_s is None
        ]
        if len(meant) != 1:
            ids = ", ".join(key.id for key in meant)
            hint = f"say which: {ids}" if meant else "`coe keys list` shows all"
            problem = f"{len(meant)} keys are called {name_or_id!r}; {hint}"
            raise ConfigError(problem, key="revoke")
        revoked = replace(meant[0], revoked_s=meant[0].revoked_s or self._clock())
        await self.absorb((revoked,))
        return revoked

    async def all(self) -> tuple[ApiKey, ...]:
        await self.refresh(0.0)
        return self.known

    async def find(self, authorization: bytes | None) -> ApiKey | None:
        token = token_in(authorization)
        if token is None:
            return None
        digest = hashlib.sha256(token).digest()
        key = self._by_digest.get(digest)
        age_s = self._monotonic() - self._read_at
        # While one caller reads the file again, others go on with what was known.
        if (age_s >= KNOWN_S and not self._lock.locked()) or (key is None and age_s >= UNKNOWN_S):
            await self.refresh(UNKNOWN_S)
            key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            return None
        return key if key.is_usable(self._clock()) else None

    @property
    def known(self) -> tuple[ApiKey, ...]:
        """All, as they were when they were last read; oldest first."""
        return tuple(sorted(self._by_digest.values(), key=lambda key: (key.created_s, key.id)))

    async def refresh(self, older_than_s: float) -> None:
        """Reads what another process may have written. Without a disk, what is known stays."""
        async with self._lock:
            if self._monotonic() - self._read_at < older_than_s:
                return
            try:
                generation = await self._database.read(_generation)
                if generation != self.generation:
                    self.generation, self._by_digest = await self._database.read(_load)
            except StoreError:
                pass  # the database has told of it, and says so in its health
            self._read_at = self._monotonic()

    async def absorb(self, keys: Iterable[ApiKey]) -> None:
        """Writes keys that are new or newly revoked. A revoked one stays so. Durable on return."""
        rows = [_row(key) for key in keys]

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany(
                f"INSERT INTO keys ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?) "
                "ON CONFLICT (id) DO UPDATE SET revoked_s = "
                "coalesce(min(revoked_s, excluded.revoked_s), revoked_s, excluded.revoked_s)",
                rows,
            )
            connection.execute(
                "INSERT INTO meta VALUES ('keys', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (secrets.token_hex(8),),
            )

        await self._database.write(job)
        await self.refresh(0.0)


def token_in(authorization: bytes | None) -> bytes | None:
    """The key of a header `Bearer coe-…`, if it looks like one of ours."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not _TOKEN.fullmatch(token):
        return None
    return token


def to_record(key: ApiKey) -> dict[str, Any]:
    """For JSON. `from_record` reads it."""
    record = asdict(key)
    record["digest"] = key.digest.hex()
    if key.limits.max_priority is None:
        del record["limits"]["max_priority"]  # replicas of an earlier release know no such thing
    return record


def from_record(record: dict[str, Any]) -> ApiKey:
    """Raises ValueError, KeyError or TypeError, or `ConfigError`, for what is no key."""
    asked = dict(record["limits"])
    experts = asked.pop("experts")
    limits = KeyLimits(**asked, experts=None if experts is None else tuple(experts))
    digest = bytes.fromhex(record["digest"])
    return ApiKey(**(record | {"digest": digest, "limits": limits}))


def _row(key: ApiKey) -> tuple[Any, ...]:
    limits = key.limits
    experts = None if limits.experts is None else json.dumps(limits.experts)
    money = (limits.budget_usd, limits.budget_period)
    asked = (limits.rpm, limits.tpm, *money, experts, limits.max_priority)
    return (key.id, key.digest, key.name, key.created_s, *asked, key.expires_s, key.revoked_s)


def _generation(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM meta WHERE name = 'keys'").fetchone()
    return "" if row is None else str(row[0])


def _load(connection: sqlite3.Connection) -> tuple[str, dict[bytes, ApiKey]]:
    generation = _generation(connection)
    keys = {}
    for row in connection.execute(f"SELECT {_COLUMNS} FROM keys"):
        id_, digest, name, created_s, rpm, tpm, *money, experts, priority, expires, revoked = row
        among = None if experts is None else tuple(json.loads(experts))
        limits = KeyLimits(rpm, tpm, money[0], money[1], among, priority)
        keys[digest] = ApiKey(id_, name, digest, created_s, limits, expires, revoked)
    return generation, keys
