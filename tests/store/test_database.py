"""One file behind two threads: what is durable, what is lost, and what never blocks."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from coe.errors import ConfigError, StoreError
from coe.store.database import Database
from coe.store.schema import MIGRATIONS, migrate

INSERT = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


def _names(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM meta ORDER BY name")]


async def test_rows_are_there_after_a_flush(database: Database) -> None:
    for name in "cab":
        database.put(INSERT, (name, ""))
    await database.flush()
    assert await database.read(_names) == ["a", "b", "c"]


async def test_latest_row_of_a_slot_is_the_one_written(database: Database) -> None:
    for n in range(1000):
        database.put_latest("slot", INSERT, ("a", str(n)))
    await database.flush()
    rows = await database.read(lambda c: c.execute("SELECT name, value FROM meta").fetchall())
    assert rows == [("a", "999")]


async def test_job_that_raises_undoes_itself_alone(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        connection.execute(INSERT, ("bad", ""))
        raise ZeroDivisionError

    database.put(INSERT, ("good", ""))
    with pytest.raises(ZeroDivisionError):
        await database.write(fails)
    await database.flush()
    assert await database.read(_names) == ["good"]


async def test_row_that_cannot_be_written_takes_no_other_with_it(database: Database) -> None:
    for name in ("a", "\ud800", "b"):
        database.put(INSERT, (name, ""))
    database.put_latest("slot", INSERT, ("c", 2**70))
    database.put_latest("other slot", INSERT, ("d", ""))
    await database.flush()
    assert await database.read(_names) == ["a", "b", "d"]
    assert database.n_lost == 2


async def test_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await database.read(lambda connection: connection.execute(INSERT, ("a", "")))


async def test_rows_beyond_the_queue_are_dropped_and_counted(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db", max_queued=3)
    holding = sqlite3.connect(database.file, isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")  # the writer has to wait for this
    database.put(INSERT, ("first", ""))
    for n in range(100):
        database.put(INSERT, (str(n), ""))
    holding.execute("ROLLBACK")
    holding.close()
    database.close()
    with sqlite3.connect(database.file) as after:
        n_written = len(_names(after))
    after.close()
    assert database.n_lost == 101 - n_written
    assert 3 <= n_written <= 6


async def test_full_disk_is_told_and_overcome(database: Database) -> None:
    (n_pages,) = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone())
    await database.write(lambda c: c.execute(f"PRAGMA max_page_count = {n_pages}").fetchone())
    database.put(INSERT, ("lost", "x" * 100_000))
    with pytest.raises(StoreError, match=r"full; free space"):
        await database.flush()
    database.put_latest("kept", INSERT, ("kept", "x" * 100_000))
    with pytest.raises(StoreError, match="full"):
        await database.flush()
    told = database.trouble
    assert told is not None
    assert database.n_lost == 1
    assert await database.read(_names) == []
    # Of the connection that writes, whose jobs all fail by now.
    database._writing.execute("PRAGMA max_page_count = 100000").fetchone()
    await database.flush()
    assert database.trouble is None
    assert await database.read(_names) == ["kept"]


def test_second_gateway_is_refused_and_a_command_is_not(database: Database) -> None:
    with pytest.raises(ConfigError, match="another gateway"):
        Database(database.file)
    Database(database.file, is_exclusive=False).close()


async def test_closed_database_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db")
    database.put(INSERT, ("a", ""))
    database.close()
    with pytest.raises(StoreError, match="closed"):
        await database.flush()
    again = Database(tmp_path / "store.db")
    assert again.read_now(_names) == ["a"]
    again.close()


def test_state_is_readable_by_its_owner_only(database: Database) -> None:
    for file in database.file.parent.glob("store.db*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database, " * 64)
    with pytest.raises(ConfigError, match="not a database"):
        Database(tmp_path / "store.db")


def test_schema_of_a_later_release_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    migrate(connection, "store.db", (*MIGRATIONS, ("CREATE TABLE later (x)",)))
    connection.close()
    with pytest.raises(ConfigError, match="schema 3 and this release knows 2"):
        Database(tmp_path / "store.db")


def test_migration_keeps_what_was_there_or_changes_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    migrate(connection, "store.db")
    connection.execute(INSERT, ("a", "1"))
    broken = (*MIGRATIONS, ("CREATE TABLE fresh (x)", "CREATE TABLE fresh (x)"))
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, "store.db", broken)
    tables = "SELECT count(*) FROM sqlite_master WHERE name = 'fresh'"
    assert connection.execute(tables).fetchone() == (0,)
    migrate(connection, "store.db", (*MIGRATIONS, ("CREATE TABLE fresh (x)",)))
    assert connection.execute(tables).fetchone() == (1,)
    assert _names(connection) == ["a"]
    connection.close()


WRITES_UNTIL_KILLED = """
import asyncio, sys, itertools
from pathlib import Path
from coe.store.database import Database

async def main():
    database = Database(Path(sys.argv[1]))
    for n in itertools.count():
        database.put("INSERT INTO meta VALUES (?, 'put')", (f"{n:08}",))
        if n % 50 == 49:
            await database.flush()
            print(n, flush=True)

asyncio.run(main())
"""


def test_kill_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_UNTIL_KILLED, str(file)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(10)]
        writer.kill()
        told += [int(line) for line in writer.stdout.read().splitlines()]
    database = Database(file)
    names = database.read_now(_names)
    check = database.read_now(lambda c: c.execute("PRAGMA integrity_check").fetchall())
    database.close()
    assert check == [("ok",)]
    assert names == [f"{n:08}" for n in range(len(names))]
    assert told[-1] < len(names) <= told[-1] + 1 + 50 + 50
