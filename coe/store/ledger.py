"""What the processes of one gateway agree on while it runs: a SQLite file that each of them asks
on its event loop, for some tens of microseconds.

Nothing in it outlives the gateway, so nothing waits for a disk: a killed process tears nothing, and
what a power cut takes is of no use any more. Who does not get at it in time goes on alone.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coe.errors import ConfigError

_LOG = logging.getLogger(__name__)
_BUSY_S = 0.05
"""Longest that the event loop stands still for the others."""
_LOOK_S = 2e-5
_MOST_LOGGED_PAGES = 256

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


class LedgerAway(Exception):
    """The ledger could not be asked in time, or its disk fails."""


class Ledger:
    """One process's way to the file."""

    def __init__(
        self, file: Path, tables: tuple[str, ...], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`tables`: statements that create what is not there. Blocks. Raises `ConfigError`."""
        self._file = file
        self._monotonic = monotonic
        self._is_away = False
        try:
            self._connection = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None)
            file.chmod(0o600)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_MOST_LOGGED_PAGES}")
            for statement in tables:
                self._connection.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot be used for state: {error}", file=str(file)) from None
        # From here on it is waited for in steps that are shorter than SQLite's own.
        self._connection.execute("PRAGMA busy_timeout = 0")

    def run(self, job: Job[T]) -> T:
        """What the job returns, which no other process comes in between of. What it raises undoes
        it. Raises `LedgerAway`.
        """
        connection = self._connection
        try:
            self._begin()
            try:
                done = job(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if not self._is_away:
                _LOG.warning("%s: %s; this process goes on alone", self._file, error)
            self._is_away = True
            raise LedgerAway(str(error)) from None
        self._is_away = False
        return done

    def close(self) -> None:
        self._connection.close()

    def _begin(self) -> None:
        until_s = self._monotonic() + _BUSY_S
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                if self._monotonic() >= until_s:
                    raise
                time.sleep(_LOOK_S)
