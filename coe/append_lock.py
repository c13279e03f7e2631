"""Turns at a file that several processes append to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class AppendLock:
    """A context manager, within which no other process appends. Not for two threads at once.

    The lock is one of a file beside it, so that one process may keep others out of the file itself
    for as long as it lives. A process that ends, however it does, gives up its turn.
    """

    def __init__(self, file: Path) -> None:
        """Raises `OSError`."""
        self._fd = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent. Raises `OSError` in whoever wants a turn afterwards."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def claim(fd: int, is_shared: bool) -> None:
    """Holds an open file for as long as it is open: alone, or with others that share it so.

    Raises `BlockingIOError` if another process holds it in a way that does not allow for that.
    """
    fcntl.flock(fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
