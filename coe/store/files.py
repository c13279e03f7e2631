"""Files that clients upload and batches write: rows in SQLite, bytes in a folder, named by id.

What a client calls a file is kept to be told again, and never becomes a path. A file is there
once its row is; bytes without a row are what a crash left, and are swept away at the next start.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

from coe.errors import ConfigError, RequestError, StoreError
from coe.store.database import Database

_ID = re.compile(r"file-[0-9a-f]{32}")
_COLUMNS = "id, tenant, filename, purpose, n_bytes, created_s, expires_s"
_WRITE_BYTES = 1024 * 1024
_NAME_CHARS = 255
MOST_LISTED = 10_000


class UnknownFile(RequestError):
    """An id that this tenant has no file under."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"no file {file_id[:64]!r}; GET /v1/files lists yours", param="file_id")


class FileTooLarge(RequestError):
    """More bytes than one file may have."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the file is larger than {max_bytes} bytes; split it", param="file")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What OpenAI calls a file object, without its bytes."""

    id: str
    tenant: str
    filename: str
    """As the client named it: to be shown, never to be opened."""
    purpose: str
    n_bytes: int
    created_s: float
    expires_s: float | None = None


class Files:
    """The files of all tenants, each of which sees its own."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        clock: Callable[[], float] = time.time,
        sweeps: bool = True,
    ) -> None:
        """Sweeps bytes without a row out of the folder, which is for this alone. Blocks. Raises
        `ConfigError`. Not `sweeps`: another process may be writing such bytes just now.
        """
        self._database = database
        self._folder = folder
        self._clock = clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = database.read_now(_ids) if sweeps else set[str]()
            for path in folder.iterdir() if sweeps else ():
                if path.name not in known:
                    path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot be used for files: {error}", file=str(folder)) from None

    async def create(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        content: AsyncIterator[bytes],
        *,
        max_bytes: int,
        lifetime_s: float | None = None,
    ) -> StoredFile:
        """Keeps what arrives. Durable on return; nothing is left of what did not arrive whole.

        Raises `FileTooLarge`, `StoreError`, and what `content` raises.
        """
        file_id = _new_id()
        path = self._folder / file_id
        try:
            n_bytes = await self._receive(path, content, max_bytes)
            return await self._add(file_id, tenant, filename, purpose, n_bytes, lifetime_s)
        except OSError as error:
            await asyncio.to_thread(_remove, path)
            raise StoreError(f"{self._folder} cannot be written: {error}") from None
        except BaseException:
            # Not awaited: who is cancelled has no time for it.
            _remove(path)
            raise

    async def adopt(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        path: Path,
        lifetime_s: float | None = None,
    ) -> StoredFile:
        """Moves a file of ours in, from the same file system. Durable on return."""
        file_id = _new_id()
        kept = self._folder / file_id
        try:
            n_bytes = await asyncio.to_thread(_move, path, kept)
        except OSError as error:
            raise StoreError(f"{path} cannot be kept as a file: {error}") from None
        try:
            return await self._add(file_id, tenant, filename, purpose, n_bytes, lifetime_s)
        except StoreError:
            await asyncio.to_thread(os.replace, kept, path)
            raise

    async def get(self, tenant: str, file_id: str) -> StoredFile:
        """Raises `UnknownFile`: also for another tenant's, and for one that has expired."""
        found = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ?", (file_id, tenant)
            ).fetchone()
        )
        file = None if found is None else StoredFile(*found)
        if file is None or (file.expires_s is not None and file.expires_s <= self._clock()):
            raise UnknownFile(file_id)
        return file

    async def all(self, tenant: str, limit: int = MOST_LISTED) -> tuple[StoredFile, ...]:
        """Newest first, without those that have expired."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE tenant = ? "
                "AND (expires_s IS NULL OR expires_s > ?) ORDER BY created_s DESC, id LIMIT ?",
                (tenant, self._clock(), min(limit, MOST_LISTED)),
            ).fetchall()
        )
        return tuple(StoredFile(*row) for row in rows)

    async def path(self, tenant: str, file_id: str) -> Path:
        """Where its bytes are, to be read only. Raises `UnknownFile`."""
        file = await self.get(tenant, file_id)
        if not _ID.fullmatch(file.id):
            raise UnknownFile(file_id)
        return self._folder / file.id

    async def delete(self, tenant: str, file_id: str) -> None:
        """Gone for good on return; who has it open reads on. Raises `UnknownFile`."""
        path = await self.path(tenant, file_id)
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM files WHERE id = ? AND tenant = ?", (file_id, tenant)
            )
        )
        await asyncio.to_thread(_remove, path)

    async def sweep(self) -> int:
        """Deletes what has expired: how many files that were."""
        now = self._clock()

        def expired(connection: sqlite3.Connection) -> list[str]:
            where = "WHERE expires_s <= ?"
            ids = [row[0] for row in connection.execute(f"SELECT id FROM files {where}", (now,))]
            connection.execute(f"DELETE FROM files {where}", (now,))
            return ids

        ids = await self._database.write(expired)
        for file_id in ids:
            await asyncio.to_thread(_remove, self._folder / file_id)
        return len(ids)

    async def _receive(self, path: Path, content: AsyncIterator[bytes], max_bytes: int) -> int:
        file = await asyncio.to_thread(_created, path)
        n_bytes, held = 0, bytearray()
        try:
            async for chunk in content:
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise FileTooLarge(max_bytes)
                held += chunk
                if len(held) >= _WRITE_BYTES:
                    await asyncio.to_thread(file.write, bytes(held))
                    held.clear()
            await asyncio.to_thread(_finish, file, bytes(held))
            await asyncio.to_thread(_sync, self._folder)
        finally:
            file.close()
        return n_bytes

    async def _add(
        self,
        file_id: str,
        tenant: str,
        filename: str,
        purpose: str,
        n_bytes: int,
        lifetime_s: float | None,
    ) -> StoredFile:
        now = self._clock()
        expires_s = None if lifetime_s is None else now + lifetime_s
        shown = filename.encode("utf-8", "replace").decode()[:_NAME_CHARS]
        file = StoredFile(file_id, tenant, shown, purpose, n_bytes, now, expires_s)
        await self._database.write(
            lambda connection: connection.execute(
                f"INSERT INTO files ({_COLUMNS}) VALUES (?,?,?,?,?,?,?)", astuple(file)
            )
        )
        return file


def _new_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def _ids(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT id FROM files")}


def _created(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)


def _finish(file: BinaryIO, rest: bytes) -> None:
    file.write(rest)
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move(path: Path, kept: Path) -> int:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        n_bytes = os.fstat(file.fileno()).st_size
    os.replace(path, kept)
    kept.chmod(0o600)
    _sync(kept.parent)
    return n_bytes


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
