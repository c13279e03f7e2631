"""What a child process says: its last lines in memory, all of it in a file that rotates."""

from __future__ import annotations

from collections import deque
from pathlib import Path

MAX_LINES = 1000
MAX_LINE_CHARS = 2000
MAX_FILE_BYTES = 8 * 1024 * 1024


class ChildLog:
    """Takes bytes as they come. A file that cannot be written is done without."""

    def __init__(self, path: Path | None, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self._max_file_bytes = max_file_bytes
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._partial = b""
        self.n_lines = 0
        """Lines that have come, also those that are forgotten."""

    def feed(self, chunk: bytes) -> None:
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        for line in whole:
            self._add(line)
        if len(self._partial) > 4 * MAX_LINE_CHARS:
            self._add(self._partial)
            self._partial = b""
        self._write(chunk)

    def end(self) -> None:
        """The last line, if it had no end."""
        if self._partial:
            self._add(self._partial)
            self._partial = b""

    def lines(self, since: int = 0) -> list[str]:
        """Those in memory, from the `since`-th that came on."""
        first = self.n_lines - len(self._lines)
        return list(self._lines)[max(0, since - first) :]

    def tail(self, n_lines: int = 12) -> str:
        """The last lines that say something, to be shown in an error."""
        said = [line for line in self._lines if line.strip()]
        return "\n".join(said[-n_lines:])

    def _add(self, line: bytes) -> None:
        # A progress bar rewrites its line: the last state of it counts.
        text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")
        self._lines.append(text[:MAX_LINE_CHARS])
        self.n_lines += 1

    def _write(self, chunk: bytes) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(chunk)
                size = file.tell()
            if size > self._max_file_bytes:
                self.path.replace(self.path.with_suffix(".log.1"))
        except OSError:
            self.path = None
