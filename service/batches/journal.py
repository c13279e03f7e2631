"""What a batch has finished so far: one line each, written as soon as it is known.

The journal lies beside the output until that is whole. Killed at any moment, a run loses no
line that was written and repeats only what was in flight; a line that was cut is passed over.
Of a request that several experts answer, what each of them said is a line of its own, a part, until
the request is finished. In memory are only the places of the lines.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from coe.errors import ConfigError
from coe.service.reply import to_json

_FORMAT = 1


class Journal:
    """The finished lines of one input file, by custom id. A context manager: one run at a time."""

    def __init__(
        self, out: Path, input_file: Path, request_ids: Mapping[str, str] | None = None
    ) -> None:
        """`request_ids`, by custom id, lets an output that exists be gone on from: its answers
        are done, its failures are not, and it stays until `finish` replaces it. The answers have
        to be those of these requests. None: an output that exists is left alone.

        Raises `ConfigError` if another input was begun there, or another run is under way.
        """
        self._out = out
        self._file = out.with_name(f".{out.name}.journal")
        self._digest = _digest(input_file)
        self._request_ids = request_ids
        self._places: dict[str, tuple[int, int]] = {}
        """Where in the journal a line begins, and its length without the break."""
        self._failed: set[str] = set()
        self._parts: dict[str, dict[str, tuple[int, int]]] = {}
        """Of requests that are not finished: expert → its part."""

    def __enter__(self) -> Self:
        if self._out.exists() and self._request_ids is None:
            raise ConfigError(
                "exists; ask again what failed in it with --retry-failed, or move it away or "
                "name another file",
                file=str(self._out),
            )
        self._check_output(self._request_ids or {})
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
            self._take_answers()
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

    @property
    def done(self) -> Collection[str]:
        """The custom ids of the finished lines."""
        return self._places.keys()

    @property
    def failed(self) -> Collection[str]:
        """Those of them that tell of a failure."""
        return self._failed

    def add(self, custom_id: str, line: bytes) -> None:
        """Safe from a crash of ours once this returns, and from a power cut after `sync`.

        Raises `OSError`, and leaves no half of the line, if the disk is full.
        """
        self._note(custom_id, self._append(line), line)

    def add_part(self, custom_id: str, expert_id: str, part: Mapping[str, object]) -> None:
        """What one expert answered. Raises as `add`."""
        line = to_json({"custom_id": custom_id, "expert": expert_id, "part": part})
        begin = self._append(line)
        self._parts.setdefault(custom_id, {})[expert_id] = (begin, len(line))

    def part(self, custom_id: str, expert_id: str) -> Mapping[str, object] | None:
        """None if that expert has not answered it, or the request is finished."""
        place = self._parts.get(custom_id, {}).get(expert_id)
        if place is None:
            return None
        part = (_parsed(os.pread(self._handle, place[1], place[0])) or {}).get("part")
        return part if isinstance(part, dict) else None

    def experts_heard(self, custom_id: str) -> Collection[str]:
        """Those whose parts there are."""
        return self._parts.get(custom_id, {}).keys()

    def sync(self) -> None:
        """Blocks until what was added is on the disk."""
        os.fsync(self._handle)

    def forget(self, custom_ids: Collection[str]) -> None:
        """These are to be done again; their next lines replace the old ones."""
        for custom_id in tuple(custom_ids):
            self._places.pop(custom_id, None)
            self._failed.discard(custom_id)

    def finish(self, order: Sequence[str]) -> None:
        """Writes the output, one line for each id in this order, and takes the journal away."""
        self.write(self._out, order)
        self._file.unlink()

    def write(self, file: Path, order: Sequence[str], more: Iterable[bytes] = ()) -> None:
        """The lines of these ids and then more, as a file that is on the disk or is not there."""
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as written:
                written.writelines(self._line(custom_id) + b"\n" for custom_id in order)
                written.writelines(line + b"\n" for line in more)
                written.flush()
                os.fsync(written.fileno())
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _line(self, custom_id: str) -> bytes:
        begin, length = self._places[custom_id]
        return os.pread(self._handle, length, begin)

    def _read(self) -> None:
        lines = _lines(self._file)
        head = _parsed(next(lines, (0, b""))[1])
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
        for begin, line in lines:
            parsed = _parsed(line) or {}
            custom_id, expert_id = parsed.get("custom_id"), parsed.get("expert")
            if isinstance(custom_id, str) and isinstance(expert_id, str):
                self._parts.setdefault(custom_id, {})[expert_id] = (begin, len(line))
            elif isinstance(custom_id, str):
                self._note(custom_id, begin, line.removesuffix(b"\n"))
        size = os.fstat(self._handle).st_size
        if os.pread(self._handle, 1, size - 1) != b"\n":
            # The next line must not be glued to one that was cut.
            os.write(self._handle, b"\n")

    def _check_output(self, request_ids: Mapping[str, str]) -> None:
        """Raises `ConfigError` if there is a line that is not about one of these requests."""
        for custom_id, line in self._output():
            request_id = (_parsed(line) or {}).get("id")
            if request_id is None or request_ids.get(custom_id) != request_id:
                raise ConfigError(
                    "holds other lines than answers to these requests; move it away or name "
                    "another file",
                    file=str(self._out),
                )

    def _output(self) -> Iterator[tuple[str, bytes]]:
        """Its lines by custom id, which is empty where a line has none."""
        if self._out.exists():
            for _, line in _lines(self._out):
                custom_id = (_parsed(line) or {}).get("custom_id")
                yield str(custom_id or ""), line.removesuffix(b"\n")

    def _take_answers(self) -> None:
        """Copies what was answered into the journal, which then is all that `finish` needs."""
        for custom_id, line in self._output():
            if custom_id not in self._places and not _is_error(line):
                self.add(custom_id, line)

    def _note(self, custom_id: str, begin: int, line: bytes) -> None:
        self._places[custom_id] = (begin, len(line))
        if _is_error(line):
            self._failed.add(custom_id)  # Its parts are of use if it is asked again.
        else:
            self._failed.discard(custom_id)
            self._parts.pop(custom_id, None)

    def _append(self, line: bytes) -> int:
        """Where it begins."""
        begin = os.fstat(self._handle).st_size
        data = memoryview(line + b"\n")
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError:
            os.ftruncate(self._handle, begin)
            raise
        return begin


@asynccontextmanager
async def opened(journal: Journal) -> AsyncIterator[Journal]:
    """Open while the block runs. Opening blocks, and so is done in a thread."""
    opening = asyncio.ensure_future(asyncio.to_thread(journal.__enter__))
    try:
        await asyncio.shield(opening)
        yield journal
    finally:
        await asyncio.wait([opening])
        if opening.exception() is None:
            journal.__exit__(None, None, None)


def _is_error(line: bytes) -> bool:
    response = (_parsed(line) or {}).get("response")
    return not (isinstance(response, dict) and response.get("status_code") == 200)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its break, and where it begins."""
    begin = 0
    with file.open("rb") as lines:
        for line in lines:
            yield begin, line
            begin += len(line)


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
