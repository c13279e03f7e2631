"""The tables, as the steps that lead to them. A step that was released is never changed."""

from __future__ import annotations

import sqlite3
import time

from coe.errors import ConfigError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
            created_s REAL NOT NULL, rpm INTEGER, tpm INTEGER, budget_usd REAL,
            budget_period TEXT NOT NULL, experts TEXT, expires_s REAL, revoked_s REAL
        ) WITHOUT ROWID""",
        """CREATE TABLE spend (
            key_id TEXT NOT NULL, period TEXT NOT NULL, nanos INTEGER NOT NULL,
            PRIMARY KEY (key_id, period)
        ) WITHOUT ROWID""",
        """CREATE TABLE files (
            id TEXT PRIMARY KEY, tenant TEXT NOT NULL, filename TEXT NOT NULL,
            purpose TEXT NOT NULL, n_bytes INTEGER NOT NULL, created_s REAL NOT NULL,
            expires_s REAL
        )""",
        "CREATE INDEX files_of_tenant ON files (tenant, id)",
        """CREATE TABLE batches (
            id TEXT PRIMARY KEY, tenant TEXT NOT NULL, state TEXT NOT NULL,
            endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, window TEXT NOT NULL,
            created_s REAL NOT NULL, expires_s REAL NOT NULL, metadata TEXT NOT NULL,
            times TEXT NOT NULL, output_file_id TEXT, error_file_id TEXT, errors TEXT NOT NULL,
            n_total INTEGER NOT NULL, n_completed INTEGER NOT NULL, n_failed INTEGER NOT NULL
        )""",
        "CREATE INDEX batches_of_tenant ON batches (tenant, id)",
        "CREATE INDEX batches_by_state ON batches (state)",
        """CREATE TABLE decisions (
            number INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL,
            time_s REAL NOT NULL, tenant TEXT NOT NULL, router TEXT NOT NULL,
            policy TEXT NOT NULL, experts TEXT NOT NULL, prompt_tokens INTEGER,
            completion_tokens INTEGER, cost_usd REAL, latency_s REAL NOT NULL, text TEXT
        )""",
        "CREATE INDEX decisions_by_time ON decisions (time_s)",
        "CREATE INDEX decisions_of_tenant ON decisions (tenant, number)",
    ),
    (
        """CREATE TABLE spend_by_worker (
            key_id TEXT NOT NULL, period TEXT NOT NULL, worker INTEGER NOT NULL,
            nanos INTEGER NOT NULL, PRIMARY KEY (key_id, period, worker)
        ) WITHOUT ROWID""",
        "INSERT INTO spend_by_worker SELECT key_id, period, 0, nanos FROM spend",
        "DROP TABLE spend",
        "ALTER TABLE spend_by_worker RENAME TO spend",
        "ALTER TABLE keys ADD COLUMN max_priority INTEGER",
        "ALTER TABLE batches ADD COLUMN output_lifetime_s REAL",
    ),
)


def migrate(
    connection: sqlite3.Connection,
    file: str,
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS,
) -> None:
    """Takes the file to the newest schema, all steps or none.

    Raises `ConfigError` if it was made by a later release.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version "
            "(version INTEGER PRIMARY KEY, applied_s REAL NOT NULL)"
        )
        (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
        version = version or 0
        if version > len(migrations):
            raise ConfigError(
                f"has schema {version} and this release knows {len(migrations)}; use the release "
                "that wrote it, or another folder",
                file=file,
            )
        for number, statements in enumerate(migrations[version:], start=version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (number, time.time()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
