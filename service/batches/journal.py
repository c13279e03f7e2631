"""What a batch has finished so far: one line each, written as soon as it is known.

The journal lies beside the output until that is whole. Killed at any moment, a run loses no
line that was written and repeats only what was in flight; a line that was cut is passed over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from coe.errors import ConfigError
from coe.service.reply import to_json

_FORMAT = 1


class Journal:
    """The finished lines of one input file, by custom id. A context manager: one run at a time."""

    def __init__(self, out: Path, input_file: Path) -> None:
        """Raises `ConfigError` if another input was begun there, or another run is under way."""
        self._out = out
        self._file = out.with_name(f".{out.name}.journal")
        self._digest = _digest(input_file)
        self.done: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        if self._out.exists():
            raise ConfigError("exists; move it away or name another file", file=str(self._out))
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            os.close(self._handle)
            raise ConfigError("is being written by another run", file=str(self._out)) from None
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def add(self, custom_id: str, line: bytes) -> None:
        """Safe from a crash of ours once this returns, and from a power cut after `sync`."""
        self._append(line)
        self.done[custom_id] = line

    def sync(self) -> None:
        """Blocks until what was added is on the disk."""
        os.fsync(self._handle)

    def forget(self, custom_ids: Sequence[str]) -> None:
        """These are to be done again; their next lines replace the old ones."""
        for custom_id in custom_ids:
            self.done.pop(custom_id, None)

    def finish(self, order: Sequence[str]) -> None:
        """Writes the output, one line for each id in this order, and takes the journal away."""
        handle, name = tempfile.mkstemp(prefix=f".{self._out.name}.", dir=self._out.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(self.done[custom_id] + b"\n" for custom_id in order)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._out)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._file.unlink()

    def _read(self) -> None:
        lines = self._file.read_bytes().split(b"\n")
        head = _parsed(lines[0]) if lines else None
        if head is None:
            # New, or killed while its first line was written.
            os.ftruncate(self._handle, 0)
            self._append(to_json({"format": _FORMAT, "input_sha256": self._digest}))
            return
        if head.get("input_sha256") != self._digest or head.get("format") != _FORMAT:
            raise ConfigError(
                f"was begun for another input; finish that, or remove {self._file.name}",
                file=str(self._out),
            )
        for line in lines[1:]:
            custom_id = (_parsed(line) or {}).get("custom_id")
            if isinstance(custom_id, str):
                self.done[custom_id] = line
        if lines[-1]:
            # The next line must not be glued to one that was cut.
            os.write(self._handle, b"\n")

    def _append(self, line: bytes) -> None:
        data = memoryview(line + b"\n")
        while data:
            data = data[os.write(self._handle, data) :]


def is_error(line: bytes) -> bool:
    """Whether a finished line tells of a failure."""
    return bool(orjson.loads(line)["response"]["status_code"] != 200)


def _parsed(line: bytes) -> dict[str, object] | None:
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", file=str(file)) from None
