"""Keeps who was asked and when, in the form that `expert_trace` reads. No query is in it.

A thread of its own writes, so that whoever adds a line never waits for a disk.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import orjson

from coe.append_lock import AppendLock, claim
from coe.errors import ConfigError

_LOG = logging.getLogger(__name__)
_MIB = 1024 * 1024


class TraceLog:
    """Appends a line for each decision, at most `every_s` after it. Thread-safe.

    Lines come in the order they were added. What does not fit the queue or the file is left out,
    which is logged once: serving goes on. One process at a time, unless all of them share it.
    """

    def __init__(
        self,
        file: Path,
        max_queued: int = 100_000,
        max_bytes: int = 256 * _MIB,
        every_s: float = 0.25,
        clock: Callable[[], float] = time.time,
        *,
        is_shared: bool = False,
    ) -> None:
        """Raises `ConfigError` if the file cannot be written."""
        try:
            self._lock = AppendLock(file) if is_shared else None
            with self._lock or nullcontext():
                self._fd = _opened(file, is_shared)
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
            raise ConfigError(problem, file=str(file), key="trace") from None
        self._lines: queue.Queue[bytes] = queue.Queue(max_queued)
        self._max_bytes = max_bytes
        self._every_s = every_s
        self._clock = clock
        self._has_lost = False
        self._is_closing = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="coe-trace", daemon=True)
        self._writer.start()

    def add(self, expert_ids: Sequence[str]) -> None:
        """One query and the experts chosen for it, best first. Never waits and never raises."""
        whom: dict[str, object] = {"expert": expert_ids[0]}
        if len(expert_ids) > 1:
            whom = {"recruited": list(expert_ids)}
        line = orjson.dumps({**whom, "time": round(self._clock(), 3)}) + b"\n"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost("its writer is too slow")

    def close(self) -> None:
        """Writes what was added until now. Idempotent; what is added later is lost."""
        self._is_closing.set()
        self._writer.join()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._lock is not None:
            self._lock.close()

    def _write_all(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_closing.wait(self._every_s)
            lines: list[bytes] = []
            while not self._lines.empty():
                lines.append(self._lines.get_nowait())
            if lines:
                self._append(b"".join(lines))

    def _append(self, lines: bytes) -> None:
        try:
            with self._lock or nullcontext():
                self._append_alone(lines)
        except OSError as error:
            self._lost(str(error))

    def _append_alone(self, lines: bytes) -> None:
        begin = os.fstat(self._fd).st_size
        if begin + len(lines) > self._max_bytes:
            self._lost(f"it has reached its limit of {self._max_bytes} bytes; move it away")
        elif os.write(self._fd, lines) < len(lines):
            os.ftruncate(self._fd, begin)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lost(self, why: str) -> None:
        if not self._has_lost:
            _LOG.warning("the trace of experts is not whole: %s", why)
        self._has_lost = True


def _opened(file: Path, is_shared: bool) -> int:
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        claim(fd, is_shared)
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")  # what a power cut left half must not spoil the next line, too
    except BlockingIOError:
        os.close(fd)
        raise OSError(errno.EBUSY, "another gateway writes it; give each its own") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
