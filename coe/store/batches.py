"""Batch jobs as OpenAI's API tells of them: a row each, whose state only goes forward.

`validating → in_progress → finalizing → completed`, and from any of these to `failed`, `expired`
or, by way of `cancelling`, `cancelled`. A step is on the disk before it is taken, so that after a
crash `unfinished` names every batch that has to be gone on with.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from coe.errors import RequestError
from coe.store.database import Database

BatchState = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "cancelling",
    "completed",
    "failed",
    "cancelled",
    "expired",
]
STATES: tuple[BatchState, ...] = get_args(BatchState)
_OUT: tuple[BatchState, ...] = ("failed", "expired", "cancelling")
STEPS: Mapping[BatchState, tuple[BatchState, ...]] = {
    "validating": ("in_progress", *_OUT),
    "in_progress": ("finalizing", *_OUT),
    "finalizing": ("completed", *_OUT),
    "cancelling": ("cancelled", "failed", "expired"),
    "completed": (),
    "failed": (),
    "cancelled": (),
    "expired": (),
}
UNFINISHED = tuple(state for state, steps in STEPS.items() if steps)

_WINDOW = re.compile(r"([1-9]\d{0,2})([hd])")
_HOUR_S = 3600.0


class UnknownBatch(RequestError):
    """An id that this tenant has no batch under."""

    def __init__(self, batch_id: str) -> None:
        told = f"no batch {batch_id[:64]!r}; GET /v1/batches lists yours"
        super().__init__(told, param="batch_id")


class BatchOver(RequestError):
    """The batch is in a state from which the step cannot be taken."""

    def __init__(self, batch_id: str, state: str, step: str) -> None:
        self.state = state
        super().__init__(f"batch {batch_id!r} is {state} and cannot become {step}")


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What OpenAI calls a batch object."""

    id: str
    tenant: str
    state: BatchState
    endpoint: str
    input_file_id: str
    window: str
    """The completion window as it was asked for: `24h`."""
    created_s: float
    expires_s: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    """When it came into each state, in seconds since the epoch."""
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[Mapping[str, Any], ...] = ()
    """Why it failed, as OpenAI's API lists it: `code`, `message`, `line`, `param`."""
    n_total: int = 0
    n_completed: int = 0
    n_failed: int = 0
    output_lifetime_s: float | None = None
    """How long what it writes is kept, as far as its client said."""

    @property
    def is_over(self) -> bool:
        return not STEPS[self.state]


_COLUMNS = tuple(column.name for column in fields(StoredBatch))
_JSON = ("metadata", "times", "errors")
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM batches"
_INSERT = f"INSERT INTO batches ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class Batches:
    """The batches of all tenants, each of which sees its own."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        tenant: str,
        input_file_id: str,
        endpoint: str,
        window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        output_lifetime_s: float | None = None,
    ) -> StoredBatch:
        """A batch that is validating. Durable on return."""
        now = self._clock()
        batch = StoredBatch(
            f"batch_{secrets.token_hex(16)}",
            tenant,
            "validating",
            endpoint,
            input_file_id,
            window,
            now,
            now + window_s(window),
            dict(metadata or {}),
            {"validating": now},
            output_lifetime_s=output_lifetime_s,
        )
        await self._database.write(lambda connection: connection.execute(_INSERT, _row(batch)))
        return batch

    async def get(self, tenant: str, batch_id: str) -> StoredBatch:
        """Raises `UnknownBatch`: also for another tenant's."""
        found = await self._rows("WHERE id = ? AND tenant = ?", (batch_id, tenant))
        if not found:
            raise UnknownBatch(batch_id)
        return found[0]

    async def all(
        self, tenant: str, limit: int = 20, after: str | None = None
    ) -> tuple[StoredBatch, ...]:
        """Newest first, those older than `after`. Raises `UnknownBatch` for it."""
        newest = "ORDER BY created_s DESC, id DESC LIMIT ?"
        if after is None:
            return await self._rows(f"WHERE tenant = ? {newest}", (tenant, limit))
        begin = await self.get(tenant, after)
        older = (tenant, begin.created_s, begin.id, limit)
        return await self._rows(f"WHERE tenant = ? AND (created_s, id) < (?, ?) {newest}", older)

    async def unfinished(self) -> tuple[StoredBatch, ...]:
        """Of all tenants, oldest first."""
        marks = ",".join("?" * len(UNFINISHED))
        return await self._rows(f"WHERE state IN ({marks}) ORDER BY created_s, id", UNFINISHED)

    async def move(
        self,
        batch_id: str,
        state: BatchState,
        *,
        output_file_id: str | None = None,
        error_file_id: str | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> StoredBatch:
        """Takes a step, once: who takes it again is told the batch as it is.

        Durable on return. Raises `UnknownBatch`, and `BatchOver` if there is no such step.
        """

        def job(connection: sqlite3.Connection) -> StoredBatch:
            batch = _found(connection, batch_id)
            if batch.state == state:
                return batch
            if state not in STEPS[batch.state]:
                raise BatchOver(batch_id, batch.state, state)
            times = json.dumps({**batch.times, state: self._clock()})
            connection.execute(
                "UPDATE batches SET state = ?, times = ?, errors = ?, "
                "output_file_id = coalesce(?, output_file_id), "
                "error_file_id = coalesce(?, error_file_id) WHERE id = ?",
                (state, times, json.dumps(list(errors)), output_file_id, error_file_id, batch_id),
            )
            return _found(connection, batch_id)

        return await self._database.write(job)

    def count(self, batch_id: str, n_total: int, n_completed: int, n_failed: int) -> None:
        """Says how far it is. Written soon, and not waited for."""
        self._database.put_latest(
            ("batch", batch_id),
            "UPDATE batches SET n_total = ?, n_completed = ?, n_failed = ? WHERE id = ?",
            (n_total, n_completed, n_failed, batch_id),
        )

    async def _rows(self, where: str, asked: Sequence[Any]) -> tuple[StoredBatch, ...]:
        return await self._database.read(
            lambda connection: tuple(
                _batch(row) for row in connection.execute(f"{_SELECT} {where}", asked)
            )
        )


def window_s(window: str) -> float:
    """Seconds in a completion window such as `24h` or `7d`. Raises `RequestError`."""
    found = _WINDOW.fullmatch(window)
    if found is None:
        told = f"completion_window must be hours or days, as in '24h' or '7d', not {window[:32]!r}"
        raise RequestError(told, param="completion_window")
    return int(found[1]) * _HOUR_S * (24 if found[2] == "d" else 1)


def _found(connection: sqlite3.Connection, batch_id: str) -> StoredBatch:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (batch_id,)).fetchone()
    if row is None:
        raise UnknownBatch(batch_id)
    return _batch(row)


def _row(batch: StoredBatch) -> tuple[Any, ...]:
    values = {name: getattr(batch, name) for name in _COLUMNS}
    return tuple(json.dumps(value) if name in _JSON else value for name, value in values.items())


def _batch(row: Sequence[Any]) -> StoredBatch:
    values = dict(zip(_COLUMNS, row, strict=True))
    values |= {name: json.loads(values[name]) for name in _JSON}
    values["errors"] = tuple(values["errors"])
    return StoredBatch(**values)
