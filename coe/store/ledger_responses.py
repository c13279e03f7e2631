"""Responses that a later request may go on from, whichever process of the gateway it comes to."""

from __future__ import annotations

import sqlite3

from coe.store.ledger import Ledger, LedgerAway

TABLES = (
    """CREATE TABLE IF NOT EXISTS responses (
        number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, id TEXT NOT NULL,
        response BLOB NOT NULL, turns BLOB NOT NULL, n_bytes INTEGER NOT NULL, UNIQUE (tenant, id)
    )""",
    "CREATE INDEX IF NOT EXISTS responses_of_tenant ON responses (tenant, number)",
    """CREATE TABLE IF NOT EXISTS tenants (
        tenant TEXT PRIMARY KEY, n INTEGER NOT NULL, n_bytes INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TRIGGER IF NOT EXISTS kept AFTER INSERT ON responses BEGIN
        INSERT INTO tenants VALUES (new.tenant, 1, new.n_bytes) ON CONFLICT (tenant)
        DO UPDATE SET n = n + 1, n_bytes = n_bytes + excluded.n_bytes;
    END""",
    """CREATE TRIGGER IF NOT EXISTS dropped AFTER DELETE ON responses BEGIN
        UPDATE tenants SET n = n - 1, n_bytes = n_bytes - old.n_bytes WHERE tenant = old.tenant;
        DELETE FROM tenants WHERE tenant = old.tenant AND n = 0;
    END""",
)
_ONE = "WHERE tenant = ? AND id = ?"
_OLDEST = (
    "DELETE FROM responses WHERE number = (SELECT min(number) FROM responses WHERE tenant = ?)"
)


class LedgerResponses:
    """The latest responses of each tenant, as bytes; no tenant sees another's.

    Bounded twice: `capacity` responses a tenant, and `max_bytes` for all, where the tenant that
    holds the most gives way. While the file cannot be asked there are none.
    """

    def __init__(self, ledger: Ledger, capacity: int, max_bytes: int) -> None:
        self._ledger = ledger
        self._capacity = capacity
        self._max_bytes = max_bytes

    def keep(self, tenant: str, response_id: str, response: bytes, turns: bytes) -> bool:
        """False: too large to be kept, or nobody can keep it just now."""
        n_bytes = len(response) + len(turns)
        if n_bytes > self._max_bytes:
            return False

        def job(connection: sqlite3.Connection) -> bool:
            connection.execute(f"DELETE FROM responses {_ONE}", (tenant, response_id))
            connection.execute(
                "INSERT INTO responses (tenant, id, response, turns, n_bytes) "
                "VALUES (?, ?, ?, ?, ?)",
                (tenant, response_id, response, turns, n_bytes),
            )
            self._make_room(connection, tenant)
            return _found(connection, tenant, response_id) is not None

        try:
            return self._ledger.run(job)
        except LedgerAway:
            return False

    def find(self, tenant: str, response_id: str) -> tuple[bytes, bytes] | None:
        """The response and its turns; None for one that is unknown, forgotten or another's."""
        try:
            return self._ledger.run(lambda connection: _found(connection, tenant, response_id))
        except LedgerAway:
            return None

    def forget(self, tenant: str, response_id: str) -> bool:
        """Whether there was such a response."""

        def job(connection: sqlite3.Connection) -> bool:
            gone = connection.execute(f"DELETE FROM responses {_ONE}", (tenant, response_id))
            return gone.rowcount > 0

        try:
            return self._ledger.run(job)
        except LedgerAway:
            return False

    def _make_room(self, connection: sqlite3.Connection, tenant: str) -> None:
        mine = connection.execute("SELECT n FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
        if mine[0] > self._capacity:
            connection.execute(_OLDEST, (tenant,))
        while True:
            in_all, *_ = connection.execute("SELECT sum(n_bytes) FROM tenants").fetchone()
            if in_all <= self._max_bytes:
                return
            most = "SELECT tenant FROM tenants ORDER BY n_bytes DESC LIMIT 1"
            connection.execute(_OLDEST, connection.execute(most).fetchone())


def _found(
    connection: sqlite3.Connection, tenant: str, response_id: str
) -> tuple[bytes, bytes] | None:
    row = connection.execute(
        f"SELECT response, turns FROM responses {_ONE}", (tenant, response_id)
    ).fetchone()
    return None if row is None else (row[0], row[1])
