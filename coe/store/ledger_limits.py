"""Limits that the processes of one gateway hold a key to together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from coe.store.keys import ApiKey
from coe.store.ledger import Ledger, LedgerAway
from coe.store.limits import UNLIMITED, Allowance, Limits, allowance, corrected, refusal, taken

TABLES = (
    """CREATE TABLE IF NOT EXISTS limits (
        key_id TEXT PRIMARY KEY, requests_at INTEGER NOT NULL, tokens_at INTEGER NOT NULL
    ) WITHOUT ROWID""",
)
_FIND = "SELECT requests_at, tokens_at FROM limits WHERE key_id = ?"
_KEEP = "INSERT OR REPLACE INTO limits VALUES (?, ?, ?)"


class LedgerLimits:
    """By the machine's monotonic clock, which its processes share; each by itself while the ledger
    cannot be asked.
    """

    def __init__(
        self, ledger: Ledger, alone: Limits, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`alone` stands in."""
        self._ledger = ledger
        self._alone = alone
        self._monotonic = monotonic

    async def take(self, key: ApiKey, n_tokens: int) -> Allowance:
        rpm, tpm = key.limits.rpm, key.limits.tpm
        if rpm is None and tpm is None:
            return UNLIMITED

        def job(connection: sqlite3.Connection) -> Allowance:
            now = self._now()
            requests_at, tokens_at = _found(connection, key.id, now)
            requests_at, requests_wait = taken(requests_at, now, 1, rpm)
            tokens_at, tokens_wait = taken(tokens_at, now, n_tokens, tpm)
            if requests_wait or tokens_wait:
                raise refusal(key, requests_wait, tokens_wait)
            connection.execute(_KEEP, (key.id, requests_at, tokens_at))
            return allowance(key, now, requests_at, tokens_at)

        try:
            return self._ledger.run(job)
        except LedgerAway:
            return await self._alone.take(key, n_tokens)

    async def correct(self, key: ApiKey, taken_tokens: int, used_tokens: int) -> None:
        tpm = key.limits.tpm
        if tpm is None or taken_tokens == used_tokens:
            return

        def job(connection: sqlite3.Connection) -> None:
            now = self._now()
            requests_at, tokens_at = _found(connection, key.id, now)
            tokens_at = corrected(tokens_at, now, used_tokens - taken_tokens, tpm)
            connection.execute(_KEEP, (key.id, requests_at, tokens_at))

        try:
            self._ledger.run(job)
        except LedgerAway:
            await self._alone.correct(key, taken_tokens, used_tokens)

    def _now(self) -> int:
        return int(self._monotonic() * 1e6)


def _found(connection: sqlite3.Connection, key_id: str, now: int) -> tuple[int, int]:
    row = connection.execute(_FIND, (key_id,)).fetchone()
    return (now, now) if row is None else (row[0], row[1])
