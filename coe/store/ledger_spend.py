"""Budgets that the processes of one gateway hold a key to together.

The ledger has, of each key and period, the total of every process and what running requests have
reserved. A process sends its own total with everything that it asks.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

from coe.store.keys import ApiKey
from coe.store.ledger import Ledger, LedgerAway
from coe.store.spend import Account, Reservation, Spent, SqliteSpend

TABLES = (
    """CREATE TABLE IF NOT EXISTS money (
        key_id TEXT NOT NULL, period TEXT NOT NULL, worker INTEGER NOT NULL,
        nanos INTEGER NOT NULL, PRIMARY KEY (key_id, period, worker)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS holds (
        key_id TEXT NOT NULL, period TEXT NOT NULL, id TEXT NOT NULL, worker INTEGER NOT NULL,
        nanos INTEGER NOT NULL, expires_s REAL NOT NULL, PRIMARY KEY (key_id, period, id)
    ) WITHOUT ROWID""",
)
_TOTAL = (
    "INSERT INTO money VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key_id, period, worker) DO UPDATE SET nanos = max(nanos, excluded.nanos)"
)
_OF = "WHERE key_id = ? AND period = ?"


class LedgerSpend:
    """By what all processes spend; while the ledger cannot be asked, by what it last told."""

    def __init__(
        self,
        local: SqliteSpend,
        ledger: Ledger,
        worker: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Goes on from what a process in the same place had spent when it ended, whose requests
        are over. Raises `LedgerAway`.
        """
        self._local = local
        self._ledger = ledger
        self._worker = worker
        self._clock = clock
        for key_id, period, nanos in ledger.run(self._join):
            local.take_up(key_id, period, worker, nanos)

    async def reserve(self, key: ApiKey, usd: float) -> Reservation:
        if key.limits.budget_usd is None:
            return await self._local.reserve(key, usd)
        reservation = self._local.proposal(key, usd)
        account, nanos = reservation.account, reservation.nanos
        hold = (reservation.id, self._worker, nanos, reservation.expires_s)

        def job(connection: sqlite3.Connection) -> None:
            spent, reserved = self._standing(connection, account)
            account.others = max(account.others, spent - account.own)
            self._local.check(key, nanos, spent, reserved)
            connection.execute(
                "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?)",
                (account.key_id, account.period, *hold),
            )

        try:
            self._ledger.run(job)
        except LedgerAway:
            self._local.check(key, nanos, account.own + account.others, account.reserved)
        account.take_on(reservation)
        return reservation

    async def settle(self, reservation: Reservation, usd: float) -> None:
        if reservation.is_settled:
            return
        self._local.settle_now(reservation, usd)
        account = reservation.account
        mine = (account.key_id, account.period, reservation.id)

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(f"DELETE FROM holds {_OF} AND id = ?", mine)
            self._send(connection, account)
            spent, _ = self._standing(connection, account)
            account.others = max(account.others, spent - account.own)

        with suppress(LedgerAway):  # the next that reaches it brings the new total with it
            self._ledger.run(job)

    async def spent(self, key: ApiKey) -> Spent:
        account = self._local.account(key)
        try:
            spent, reserved = self._ledger.run(lambda c: self._standing(c, account))
        except LedgerAway:
            return await self._local.spent(key)
        return self._local.standing(key, spent, reserved)

    def _join(self, connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
        """Tells what was spent before, and is told what a process in this place had spent."""
        connection.executemany(_TOTAL, self._local.earlier)
        connection.execute("DELETE FROM holds WHERE worker = ?", (self._worker,))
        mine = "SELECT key_id, period, nanos FROM money WHERE worker = ?"
        return connection.execute(mine, (self._worker,)).fetchall()

    def _send(self, connection: sqlite3.Connection, account: Account) -> None:
        total = (account.key_id, account.period, self._worker, account.own)
        connection.execute(_TOTAL, total)

    def _standing(self, connection: sqlite3.Connection, account: Account) -> tuple[int, int]:
        """What is spent and what is reserved, by all."""
        self._send(connection, account)
        of = (account.key_id, account.period)
        connection.execute(f"DELETE FROM holds {_OF} AND expires_s <= ?", (*of, self._clock()))
        spent = connection.execute(f"SELECT sum(nanos) FROM money {_OF}", of).fetchone()[0]
        reserved = connection.execute(f"SELECT sum(nanos) FROM holds {_OF}", of).fetchone()[0]
        return spent, reserved or 0
