"""Server-sent events, read from bytes as they arrive and written one at a time.

Follows the HTML standard's event stream format; a lone carriage return ends a line too. What
an event means is decided by whoever reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventTooLong(ValueError):
    """One event exceeds the parser's bound, or a server sends no line ends at all."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    data: bytes
    """The data lines, joined by line feeds."""
    event: str = "message"


class SSEParser:
    """Turns chunks of bytes into events; how the stream was chunked makes no difference.

    An event counts once the blank line after it has come: `feed` never returns half of one,
    and what follows the last blank line of a stream is not an event.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = ""
        self._at_start = True
        self._skip_lf = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes. Raises `EventTooLong`."""
        if not chunk:  # Says nothing about whether a line feed follows the last carriage return.
            return []
        self._pending += chunk
        if self._at_start and not self._strip_bom():
            return []
        # The line feed of a CRLF whose carriage return ended the last chunk.
        if self._skip_lf:
            self._skip_lf = False
            if self._pending[:1] == b"\n":
                del self._pending[:1]
        events = [event for line in self._lines() if (event := self._read(line)) is not None]
        if len(self._pending) + self._data_bytes > self._max_event_bytes:
            raise EventTooLong(f"an event is longer than {self._max_event_bytes} bytes")
        return events

    def _strip_bom(self) -> bool:
        """Whether enough bytes have come to tell that there is or is no byte order mark."""
        head = bytes(self._pending[:3])
        if len(head) < 3 and _BOM.startswith(head):
            return False
        self._at_start = False
        if head == _BOM:
            del self._pending[:3]
        return True

    def _lines(self) -> list[bytes]:
        buffer = bytes(self._pending)
        lines: list[bytes] = []
        start = 0
        for end in _LINE_END.finditer(buffer):
            lines.append(buffer[start : end.start()])
            start = end.end()
        self._skip_lf = start > 0 and start == len(buffer) and buffer.endswith(b"\r")
        del self._pending[:start]
        return lines

    def _read(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        # A comment's field name is empty, so it falls through like any unknown field.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_event_bytes:
                raise EventTooLong(f"an event is longer than {self._max_event_bytes} bytes")
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._data_bytes, self._event = [], 0, ""
        return ServerSentEvent(b"\n".join(data), event or "message") if data else None


def encode_event(data: bytes) -> bytes:
    """One event on the wire. Line ends of any kind in `data` arrive as line feeds."""
    if b"\n" not in data and b"\r" not in data:
        return b"data: " + data + b"\n\n"
    lines = _LINE_END.split(data)
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
