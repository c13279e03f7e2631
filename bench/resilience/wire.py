"""One request on a bare connection: what costs the asking core little, and sees every byte."""

from __future__ import annotations

import re
from typing import Protocol

from bench.load.asking import Connection, Connections

_TEXT = re.compile(rb'"content": ?"word')
_DONE, _ERROR = b"data: [DONE]", b'data: {"error"'
_KEPT_BYTES = 32
"""What is looked for may come in two reads."""


class Hearer(Protocol):
    """What is told of a response as it comes."""

    status: int
    retry_after: str | None
    expert: str
    n_pieces: int
    has_done: bool
    has_error_event: bool


class Wire:
    """Connections to one server, each for one request at a time and kept for the next."""

    def __init__(self, url: str) -> None:
        self._connections = Connections(url, _Looking)

    async def post(self, path: str, body: bytes, headers: str, hearer: Hearer) -> bytes:
        """The body of the response; empty for a stream, which is only looked at. Raises what the
        connection raises; `ConnectionError` if it ends before the response does.
        """
        connection = await self._connections.take()
        answer = await connection.ask(self._connections.post(path, body, headers), hearer)
        self._connections.keep(connection)
        return answer

    def close(self) -> None:
        self._connections.close()


class _Looking(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()
        self._rest = b""

    async def ask(self, request: bytes, hearer: Hearer) -> bytes:
        self._hearer, self._rest, self._is_stream = hearer, b"", False
        self._body.clear()
        await self.answered(request)
        return bytes(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"retry-after":
                self._hearer.retry_after = value.decode()
            case b"x-coe-expert":
                self._hearer.expert = value.decode()
            case b"content-type":
                self._is_stream = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self._hearer.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._is_stream:
            self._body += body
            return
        text, hearer = self._rest + body, self._hearer
        hearer.n_pieces += len(_TEXT.findall(text)) - len(_TEXT.findall(self._rest))
        hearer.has_done = hearer.has_done or _DONE in text
        hearer.has_error_event = hearer.has_error_event or _ERROR in text
        self._rest = text[-_KEPT_BYTES:]
