"""One SQLite file behind two threads: one writes, in batches, and one reads.

The event loop never waits for the disk. A row that is `put` is written within `COMMIT_S` and
lost if the process is killed before; what `write` has returned from is on the disk. When the disk
fails, rows are counted as lost, writers get `StoreError`, and the service goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from coe.errors import ConfigError, StoreError
from coe.store.schema import migrate

_LOG = logging.getLogger(__name__)
COMMIT_S = 0.05
COMMIT_ROWS = 500
MOST_QUEUED = 20_000
BUSY_S = 5.0

T = TypeVar("T")
Row = Sequence[Any]
Job = Callable[[sqlite3.Connection], T]


@dataclass(slots=True)
class _Batch:
    rows: deque[tuple[str, Row]] = field(default_factory=deque)
    latest: dict[Hashable, tuple[str, Row]] = field(default_factory=dict)
    jobs: deque[tuple[Job[Any], Future[Any]]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self.rows or self.latest or self.jobs)


class Database:
    """Opened by one gateway at a time where `is_exclusive`; a command may look in meanwhile."""

    def __init__(
        self, file: Path, *, is_exclusive: bool = True, max_queued: int = MOST_QUEUED
    ) -> None:
        """Creates the file, or takes it to this release's schema. Raises `ConfigError`."""
        self.file = file
        self._max_queued = max_queued
        self._lock_fd = locked(file) if is_exclusive else -1
        try:
            self._writing = _connected(file)
        except BaseException:
            self._unlock()
            raise
        self._reading: sqlite3.Connection | None = None
        self._reader = ThreadPoolExecutor(1, "coe-store-reader")
        self._batch = _Batch()
        self._wake = threading.Condition()
        self._is_closing = False
        self._trouble: str | None = None
        self._n_lost = 0
        self._writer = threading.Thread(
            target=self._write_all, name="coe-store-writer", daemon=True
        )
        self._writer.start()

    @property
    def trouble(self) -> str | None:
        """Why the last commit failed; None if it did not."""
        return self._trouble

    @property
    def n_lost(self) -> int:
        """Rows that were dropped, because the queue was full or the disk failed."""
        return self._n_lost

    @property
    def n_queued(self) -> int:
        return len(self._batch.rows)

    def put(self, sql: str, row: Row) -> None:
        """Queues a row. Never blocks and never raises: a row too many is dropped and counted."""
        with self._wake:
            rows = self._batch.rows
            if len(rows) >= self._max_queued or self._is_closing:
                self._n_lost += 1
                return
            rows.append((sql, row))
            if len(rows) in (1, COMMIT_ROWS):
                self._wake.notify()

    def put_latest(self, slot: Hashable, sql: str, row: Row) -> None:
        """Queues a row that takes the place of one queued before for the slot. Never dropped."""
        with self._wake:
            latest = self._batch.latest
            if not latest:
                self._wake.notify()
            latest[slot] = (sql, row)

    async def write(self, job: Job[T]) -> T:
        """Runs the job after all that was put before; what it wrote is on the disk on return.

        What the job raises undoes it alone. Raises `StoreError` where the disk fails.
        """
        return await asyncio.wrap_future(self._submit(job))

    def write_now(self, job: Job[T]) -> T:
        """The same for who may block: at the start, and in a command."""
        return self._submit(job).result()

    async def flush(self) -> None:
        """Returns when all that was put is on the disk. Raises `StoreError`."""
        await self.write(lambda connection: None)

    async def read(self, job: Job[T]) -> T:
        """Runs the job in the reader's thread: it sees what was committed. Raises `StoreError`."""
        return await asyncio.wrap_future(self._reader.submit(self._read, job))

    def read_now(self, job: Job[T]) -> T:
        """The same for who may block."""
        return self._reader.submit(self._read, job).result()

    def close(self) -> None:
        """Writes what is queued, as far as the disk takes it. Blocks."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._writer.join()
        self._reader.shutdown()
        if self._reading is not None:
            self._reading.close()
        self._writing.close()
        self._unlock()

    def _submit(self, job: Job[T]) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            if self._is_closing:
                raise StoreError(f"{self.file} is closed")
            self._batch.jobs.append((job, future))
            self._wake.notify()
        return future

    def _read(self, job: Job[T]) -> T:
        try:
            if self._reading is None:
                self._reading = _connection(self.file)
                self._reading.execute("PRAGMA query_only = ON")
            return job(self._reading)
        except sqlite3.Error as error:
            raise StoreError(f"{self.file} cannot be read: {error}") from None

    def _write_all(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._commit(batch)

    def _next_batch(self) -> _Batch | None:
        """Waits for one, and until it is worth a commit. None when closed and empty."""
        with self._wake:
            self._wake.wait_for(lambda: self._batch or self._is_closing)
            self._wake.wait_for(self._is_urgent, COMMIT_S)
            batch, self._batch = self._batch, _Batch()
        return batch if batch or not self._is_closing else None

    def _is_urgent(self) -> bool:
        batch = self._batch
        return bool(self._is_closing or batch.jobs or len(batch.rows) >= COMMIT_ROWS)

    def _commit(self, batch: _Batch) -> None:
        connection = self._writing
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql, row in (*batch.latest.values(), *batch.rows):
                self._write_row(sql, row)
            for job, future in batch.jobs:
                if future.set_running_or_notify_cancel():
                    done.append((future, *_outcome(connection, job)))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self._failed(batch, error)
            return
        if self._trouble is not None:
            _LOG.warning("%s is written again", self.file)
            self._trouble = None
        for future, value, problem in done:
            future.set_result(value) if problem is None else future.set_exception(problem)

    def _write_row(self, sql: str, row: Row) -> None:
        """One that cannot be written, and never will be, is dropped and takes no other with it."""
        try:
            self._writing.execute(sql, row)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - values come from clients
            self._n_lost += 1
            _LOG.warning("a row for %s cannot be written and is dropped: %s", self.file, error)

    def _failed(self, batch: _Batch, error: sqlite3.Error) -> None:
        if self._trouble is None:
            _LOG.error("%s cannot be written: %s; rows of the log are lost", self.file, error)
        self._trouble = str(error)
        with self._wake:
            self._n_lost += len(batch.rows)
            if not self._is_closing:
                # What is newer by now stays. Written with whatever comes next.
                for slot, entry in batch.latest.items():
                    self._batch.latest.setdefault(slot, entry)
        problem = StoreError(
            f"{self.file} cannot be written: {error}; free space there or see to the disk"
        )
        for _, future in batch.jobs:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(problem)

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _outcome(connection: sqlite3.Connection, job: Job[T]) -> tuple[T | None, BaseException | None]:
    """What the job returned or raised. Failures of the disk are the whole batch's: raised."""
    connection.execute("SAVEPOINT job")
    try:
        value = job(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - handed to the caller, and never to the thread
        connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return None, error
    connection.execute("RELEASE job")
    return value, None


def _connected(file: Path) -> sqlite3.Connection:
    try:
        # SQLite gives the permissions of this file to those beside it.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        connection = _connection(file)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, str(file))
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot be used for state: {error}", file=str(file)) from None
    return connection


def _connection(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def locked(file: Path) -> int:
    """A descriptor that holds the lock of a file beside it: closing any of its own would undo
    SQLite's locks. Raises `ConfigError` if another process has it.
    """
    import fcntl

    beside = file.with_name(f"{file.name}.lock")
    try:
        fd = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot be used for state: {error}", file=str(file)) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        problem = "another gateway keeps its state here; give each one its own folder"
        raise ConfigError(problem, file=str(file)) from None
    return fd
