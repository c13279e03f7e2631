"""Files: named by id, seen by their tenant alone, and whole or not there at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from coe.errors import StoreError
from coe.store.database import Database
from coe.store.files import Files, FileTooLarge, UnknownFile

CONTENT = b"line\n" * 700_000
LIMIT = 4 * 1024 * 1024


async def _chunks(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
def files(database: Database, tmp_path: Path, clock: SimpleNamespace) -> Files:
    return Files(database, tmp_path / "files", lambda: clock.now_s)


async def test_file_is_kept_as_it_came(files: Files) -> None:
    chunks = [CONTENT[i : i + 65_536] for i in range(0, len(CONTENT), 65_536)]
    made = await files.create("acme", "in.jsonl", "batch", _chunks(chunks), max_bytes=LIMIT)
    path = await files.path("acme", made.id)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o077 == 0
    assert (made.n_bytes, made.filename, made.purpose) == (len(CONTENT), "in.jsonl", "batch")
    assert await files.get("acme", made.id) == made


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "x" * 9999])
async def test_name_of_the_client_is_no_path(files: Files, tmp_path: Path, name: str) -> None:
    made = await files.create("acme", name, "batch", _chunks([b"x"]), max_bytes=LIMIT)
    assert [path.name for path in (tmp_path / "files").iterdir()] == [made.id]
    assert len(made.filename) <= 255


async def test_other_tenant_sees_nothing(files: Files) -> None:
    made = await files.create("acme", "a", "batch", _chunks([b"x"]), max_bytes=LIMIT)
    for ask in (files.get, files.path, files.delete):
        with pytest.raises(UnknownFile):
            await ask("other", made.id)
    assert await files.all("other") == ()
    assert await files.all("acme") == (made,)


@pytest.mark.parametrize("file_id", ["", "../store.db", "file-", "file-" + "0" * 32, "\x00", "%"])
async def test_unknown_id_is_told(files: Files, file_id: str) -> None:
    with pytest.raises(UnknownFile):
        await files.path("acme", file_id)


async def test_file_that_is_too_large_leaves_nothing(files: Files, tmp_path: Path) -> None:
    with pytest.raises(FileTooLarge, match="larger than 10 bytes"):
        await files.create("acme", "a", "batch", _chunks([b"12345", b"678901"]), max_bytes=10)
    assert list((tmp_path / "files").iterdir()) == []
    assert await files.all("acme") == ()


async def test_upload_that_is_cut_off_leaves_nothing(files: Files, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(files.create("a", "a", "batch", hangs(), max_bytes=LIMIT))
    await begun.wait()
    assert len(list((tmp_path / "files").iterdir())) == 1
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    assert list((tmp_path / "files").iterdir()) == []


async def test_disk_that_fails_is_told(files: Files, tmp_path: Path) -> None:
    (tmp_path / "files").rmdir()
    with pytest.raises(StoreError, match="cannot be written"):
        await files.create("acme", "a", "batch", _chunks([b"x"]), max_bytes=LIMIT)


async def test_bytes_without_a_row_are_swept_at_the_start(
    files: Files, database: Database, tmp_path: Path
) -> None:
    made = await files.create("acme", "a", "batch", _chunks([b"x"]), max_bytes=LIMIT)
    (tmp_path / "files" / ("file-" + "0" * 32)).write_bytes(b"torn")
    again = Files(database, tmp_path / "files")
    assert (await again.path("acme", made.id)).read_bytes() == b"x"
    assert len(list((tmp_path / "files").iterdir())) == 1


async def test_deleted_file_is_gone(files: Files) -> None:
    made = await files.create("acme", "a", "batch", _chunks([b"x"]), max_bytes=LIMIT)
    path = await files.path("acme", made.id)
    await files.delete("acme", made.id)
    assert not path.exists()
    with pytest.raises(UnknownFile):
        await files.get("acme", made.id)


async def test_file_expires(files: Files, clock: SimpleNamespace, tmp_path: Path) -> None:
    made = await files.create(
        "acme", "a", "batch", _chunks([b"x"]), max_bytes=LIMIT, lifetime_s=60.0
    )
    kept = await files.create("acme", "b", "batch", _chunks([b"x"]), max_bytes=LIMIT)
    assert await files.sweep() == 0
    clock.now_s += 60.0
    with pytest.raises(UnknownFile):
        await files.get("acme", made.id)
    assert await files.all("acme") == (kept,)
    assert await files.sweep() == 1
    assert [path.name for path in (tmp_path / "files").iterdir()] == [kept.id]


async def test_file_of_ours_is_moved_in(files: Files, tmp_path: Path) -> None:
    ours = tmp_path / "output.jsonl"
    ours.write_bytes(b"answers")
    made = await files.adopt("acme", "output.jsonl", "batch_output", ours)
    assert not ours.exists()
    assert (await files.path("acme", made.id)).read_bytes() == b"answers"
    assert made.n_bytes == 7
    with pytest.raises(StoreError, match="cannot be kept"):
        await files.adopt("acme", "output.jsonl", "batch_output", ours)
