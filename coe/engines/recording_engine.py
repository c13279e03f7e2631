"""Keeps what an expert answers, in the form that `coe.engines.replay` plays."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import orjson

from coe.engines.base import Engine, closing_stream
from coe.engines.replay import read_recordings
from coe.engines.wrapping import WrappingEngine
from coe.errors import ConfigError
from coe.types import Delta, GenerationRequest, Query, Usage

_LOG = logging.getLogger(__name__)


class RecordingEngine(WrappingEngine):
    """Appends each finished answer to a file as one line, before its last delta is handed on.

    Found again by the request's id and by its last user message. What the file has already is
    not written again: of several answers to one id, or to one prompt without id, the first is
    kept. Answers that fail or are left are not recorded. An answer goes on if its line cannot be
    written, which is logged. One file is for one expert and one process. Takes no raw requests:
    what is recorded has to be read.
    """

    raw_routes: frozenset[str] = frozenset()

    def __init__(self, inner: Engine, path: Path) -> None:
        """Raises `ConfigError` if the file cannot be written or is not one of recordings."""
        super().__init__(inner)
        self._file = RecordingFile(path)
        self._file.open()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        texts: list[str] = []
        usage: Usage | None = None
        async with closing_stream(self.inner.stream(request)) as deltas:
            async for delta in deltas:
                texts.append(delta.text)
                usage = delta.usage or usage
                if delta.finish_reason is not None:
                    self._record(request, "".join(texts), delta.finish_reason, usage)
                yield delta

    async def stop(self, timeout_s: float) -> None:
        """Stops the expert and closes the file; a later answer opens it again."""
        try:
            await super().stop(timeout_s)
        finally:
            self._file.close()

    def _record(
        self, request: GenerationRequest, text: str, reason: str, usage: Usage | None
    ) -> None:
        record: dict[str, object] = {"id": request.id} if request.id else {}
        record["prompt"] = Query.of_messages(request.messages).text
        record["completion"] = text
        if usage is not None:
            record["prompt_tokens"] = usage.prompt_tokens
            record["completion_tokens"] = usage.completion_tokens
        record["finish_reason"] = reason
        try:
            self._file.add(record)
        except (OSError, ConfigError, orjson.JSONEncodeError) as error:
            _LOG.error("an answer of expert %r is not recorded: %s", self.expert_id, error)


class RecordingFile:
    """A private file of recordings that only grows, by whole lines, and is one writer's alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: set[str] = set()
        self._fd = -1

    def open(self) -> None:
        """Idempotent. Raises `ConfigError`."""
        if self._fd >= 0:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._wrong(f"cannot be written: {error.strerror}") from None
        try:
            self._lock(fd)
            os.fchmod(fd, 0o600)
            self._keys = set(read_recordings(self._path))
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                _append(fd, b"\n")
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, record: dict[str, object]) -> None:
        """Nothing if the file has one like it. Raises `OSError` and leaves no half of a line."""
        self.open()
        name = "id" if "id" in record else "prompt"
        key = f"{name}:{record[name]}"
        if key in self._keys:
            return
        _append(self._fd, orjson.dumps(record) + b"\n")
        self._keys.update((key, f"prompt:{record['prompt']}"))

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._wrong("another engine records into this file; give each its own") from None

    def _wrong(self, problem: str) -> ConfigError:
        return ConfigError(problem, file=str(self._path))


def _append(fd: int, line: bytes) -> None:
    begin = os.fstat(fd).st_size
    if os.write(fd, line) < len(line):
        os.ftruncate(fd, begin)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
