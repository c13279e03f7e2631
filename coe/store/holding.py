"""A store that several processes of one gateway open, held for all by whoever starts them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coe.errors import ConfigError
from coe.store.database import Database, locked
from coe.store.files import Files
from coe.store.opening import FILE, FILES, made
from coe.store.sharing import FOLDER


@dataclass(frozen=True, slots=True)
class Hold:
    """What the processes of one gateway get from the first of them."""

    lock_fd: int
    """Whoever inherits it keeps every other gateway out for as long as it lives."""
    folder: Path
    """For what they tell each other; emptied at the next start."""


@contextmanager
def held_store(folder: Path) -> Iterator[Hold]:
    """Keeps every other gateway out while the block runs.

    Does what only one may do before the others begin: takes the file to this release's schema,
    sweeps away what a crash left, and forgets what was shared last time. Blocks. Raises
    `ConfigError`.
    """
    file = made(folder) / FILE
    lock_fd = locked(file)
    try:
        _prepare(folder, file)
        yield Hold(lock_fd, folder / FOLDER)
    finally:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        os.close(lock_fd)


def _prepare(folder: Path, file: Path) -> None:
    database = Database(file, is_exclusive=False)
    try:
        Files(database, folder / FILES)
    finally:
        database.close()
    try:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        (folder / FOLDER).mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot be used for state: {error}", file=str(folder)) from None
