"""One request on a bare connection: what costs the asking core little, and sees every byte."""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

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
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def post(self, path: str, body: bytes, headers: str, hearer: Hearer) -> bytes:
        """The body of the response; empty for a stream, which is only looked at. Raises what the
        connection raises; `ConnectionError` if it ends before the response does.
        """
        connection = await self._connection()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n{headers}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        answer = await connection.ask(head.encode() + body, hearer)
        if connection.is_open:
            self._idle.append(connection)
        else:
            self._all.discard(connection)
        return answer

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._answered: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._rest = b""
        self.is_open = False

    async def ask(self, request: bytes, hearer: Hearer) -> bytes:
        self._parser = httptools.HttpResponseParser(self)
        self._hearer, self._rest, self._is_stream = hearer, b"", False
        self._body.clear()
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._answered
        except asyncio.CancelledError:
            self.close()
            raise
        return bytes(self._body)

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not their base.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("ended early"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

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

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
