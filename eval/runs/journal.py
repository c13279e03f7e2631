"""What has been answered so far: one line each, written as soon as it is known.

Killed at any moment, a run loses no line that was written and repeats only what was in flight; a
last line that was cut is taken off. Each answer is kept once, by what was asked of whom. In memory
are only the places of the lines.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import orjson

from coe.errors import ConfigError, DatasetError
from coe.types import Completion, FinishReason, Timing, Usage

Stage = Literal["answer", "write", "final", "judge"]
"""An expert's own answer; one written after reading the others'; what came out in the end; and a
judge's opinion of that."""
SYNC_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """What was asked of whom. There is one record of it."""

    stage: Stage
    query_id: str
    expert: str = ""
    """Empty for what came out in the end, which may be of several."""


@dataclass(frozen=True, slots=True)
class Record:
    """An answer, or the error in its place."""

    spot: Spot
    text: str | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    e2el_s: float | None = None
    """With the time that it waited for its expert."""
    energy_j: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, spot: Spot, completion: Completion, energy_j: float | None = None) -> Record:
        usage, timing = completion.usage, completion.timing
        return cls(
            spot,
            completion.text,
            completion.finish_reason,
            usage.prompt_tokens if usage else None,
            usage.completion_tokens if usage else None,
            timing.ttft_s if timing else None,
            timing.e2el_s if timing else None,
            energy_j,
        )

    @property
    def completion(self) -> Completion | None:
        """The answer as it was; None if there is none."""
        if self.text is None or self.finish_reason is None:
            return None
        has_usage = self.prompt_tokens is not None and self.completion_tokens is not None
        usage = Usage(self.prompt_tokens or 0, self.completion_tokens or 0) if has_usage else None
        has_timing = self.ttft_s is not None and self.e2el_s is not None
        timing = Timing(self.ttft_s or 0.0, self.e2el_s or 0.0) if has_timing else None
        return Completion(self.text, self.finish_reason, usage, timing)


class Journal:
    """The records of one run. A context manager: one process at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[Spot, tuple[int, int]] = {}
        """Where in the file a line begins, and its length with the break."""
        self._failed: set[Spot] = set()
        self._synced_at_s = time.monotonic()

    def __enter__(self) -> Self:
        """Raises `ConfigError` if another run is under way there."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError:
            os.close(self._handle)
            fix = "is being written by another run; wait for it, or name another --run"
            raise ConfigError(fix, file=str(self._file)) from None
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
        os.fsync(self._handle)
        os.close(self._handle)

    @property
    def spots(self) -> Collection[Spot]:
        """What there is a record of, errors as well."""
        return self._places.keys()

    @property
    def failed(self) -> Collection[Spot]:
        return self._failed

    def get(self, spot: Spot) -> Record | None:
        place = self._places.get(spot)
        return None if place is None else _parsed(os.pread(self._handle, place[1], place[0]))

    def add(self, record: Record) -> None:
        """Safe from a crash of ours once this returns, from a power cut a second later.

        Raises `OSError`, and leaves no half of the line, if the disk is full.
        """
        line = orjson.dumps(asdict(record)) + b"\n"
        begin = os.fstat(self._handle).st_size
        data = memoryview(line)
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError:
            os.ftruncate(self._handle, begin)
            raise
        self._note(record, begin, len(line))
        if time.monotonic() - self._synced_at_s > SYNC_EVERY_S:
            os.fsync(self._handle)
            self._synced_at_s = time.monotonic()

    def forget(self, spots: Collection[Spot]) -> None:
        """These are asked again; their next records replace the old ones."""
        for spot in tuple(spots):
            self._places.pop(spot, None)
            self._failed.discard(spot)

    def _note(self, record: Record, begin: int, length: int) -> None:
        self._places[record.spot] = (begin, length)
        if record.error is None:
            self._failed.discard(record.spot)
        else:
            self._failed.add(record.spot)

    def _read(self) -> None:
        end = 0
        for begin, line in _lines(self._file):
            record = _parsed(line) if line.endswith(b"\n") else None
            if record is not None:
                self._note(record, begin, len(line))
            elif line.endswith(b"\n"):
                raise DatasetError(
                    f"{self._file}: line {line[:40]!r}… is no record of a run; name another --run"
                )
            else:
                break  # Killed while it was written.
            end = begin + len(line)
        os.ftruncate(self._handle, end)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its break, and where it begins."""
    begin = 0
    with file.open("rb") as lines:
        for line in lines:
            yield begin, line
            begin += len(line)


def _parsed(line: bytes) -> Record | None:
    try:
        fields = orjson.loads(line)
        return Record(**{**fields, "spot": Spot(**fields["spot"])})
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
