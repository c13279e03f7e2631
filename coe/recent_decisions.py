"""The latest decisions of a gateway, kept on disk so that feedback finds what it is about."""

from __future__ import annotations

import errno
import glob
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from coe.feedback import event_of

_LOG = logging.getLogger(__name__)


class AppendedFile:
    """A private file that only grows, by whole lines."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.fchmod(self.fd, 0o600)
            self.size = os.fstat(self.fd).st_size
            if self.size and os.pread(self.fd, 1, self.size - 1) != b"\n":
                self.append(b"\n")  # ends a line that a crash had torn
        except BaseException:
            os.close(self.fd)
            raise

    def append(self, lines: bytes) -> int:
        """Where they begin. Raises `OSError`, and leaves no half of them, if the disk is full."""
        begin = self.size
        if os.write(self.fd, lines) < len(lines):
            os.ftruncate(self.fd, begin)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(lines)
        return begin

    def read(self, begin: int = 0) -> bytes:
        with open(self.fd, "rb", closefd=False) as file:
            file.seek(begin)
            return file.read()

    def close(self) -> None:
        """Later appends raise; the number of a closed descriptor may soon be another file's."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class RecentDecisions:
    """The latest decisions: lines in two files, the older dropped when the newer is full."""

    def __init__(self, file: Path, max_bytes: int, worker: int | None) -> None:
        name = file.name if worker is None else f"{file.name}.{worker}"
        self._file = file
        self._newer_path = file.with_name(f"{name}.recent")
        self._older_path = file.with_name(f"{name}.recent.1")
        self._max_bytes = max_bytes // 2
        self._lock = threading.Lock()
        self._is_failing = False
        self._older, self._newer = _Segment(self._older_path), _Segment(self._newer_path)

    def add(self, decision_id: str, line: bytes) -> None:
        try:
            with self._lock:
                if self._newer.file.size + len(line) > self._max_bytes:
                    self._turn()
                self._newer.add(decision_id, line)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("decisions cannot be remembered for feedback: %s", error)
            self._is_failing = True

    def find(self, decision_id: str) -> bytes | None:
        with self._lock:
            line = self._newer.find(decision_id) or self._older.find(decision_id)
        return line or self._found_elsewhere(decision_id)

    def close(self) -> None:
        with self._lock:
            self._newer.file.close()
            self._older.file.close()

    def _found_elsewhere(self, decision_id: str) -> bytes | None:
        """In what other processes remember, or did."""
        asked, mine = decision_id.encode("utf-8", "replace"), (self._newer_path, self._older_path)
        name = glob.escape(self._file.name)
        for pattern in (f"{name}.recent*", f"{name}.*.recent*"):
            for path in sorted(self._file.parent.glob(pattern)):
                content = b"" if path in mine else _content_of(path)
                for line in content.splitlines(keepends=True) if asked in content else ():
                    event = event_of(line) if asked in line else None
                    if event is not None and event["id"] == decision_id:
                        return line.rstrip(b"\n") + b"\n"
        return None

    def _turn(self) -> None:
        with suppress(FileNotFoundError):  # moved by an earlier turn, which failed below
            os.replace(self._newer_path, self._older_path)
        fresh = _Segment(self._newer_path)
        self._older.file.close()
        self._older, self._newer = self._newer, fresh


class _Segment:
    """One file of decisions, and where in it each of them is."""

    def __init__(self, path: Path) -> None:
        self.file = AppendedFile(path)
        self._places: dict[str, tuple[int, int]] = {}
        begin = 0
        for line in self.file.read().splitlines(keepends=True):
            if (event := event_of(line)) is not None and event["event"] == "decision":
                self._places[event["id"]] = (begin, len(line))
            begin += len(line)

    def add(self, decision_id: str, line: bytes) -> None:
        self._places[decision_id] = (self.file.append(line), len(line))

    def find(self, decision_id: str) -> bytes | None:
        place = self._places.get(decision_id)
        return place and os.pread(self.file.fd, place[1], place[0])


def _content_of(path: Path) -> bytes:
    """Empty if it has been moved just now."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
