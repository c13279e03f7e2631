"""The side that asks: HTTP through httptools on bare connections, to cost its core little.

A connection carries one request at a time and is kept for the next.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from bench.gateway.mock import MARK

_DONE = b"data: [DONE]"
_CHUNK = re.compile(re.escape(MARK) + rb"(\d+)\|")
# A chunk's text may come in two reads: as much of the first is kept as could be its beginning.
_KEPT_BYTES = len(MARK) + 24


@dataclass(slots=True)
class Heard:
    """What came of one request; seconds on the monotonic clock."""

    due_s: float
    ended_s: float = 0.0
    problem: str | None = None
    """Why there is no whole answer."""
    is_done: bool = False
    """Whether a stream told its end."""
    n_merged: int = 0
    """Chunks that came in one piece of the body with the chunk before them."""
    sent_us: list[int] = field(default_factory=list)
    """When the expert sent each chunk, microseconds."""
    came_s: list[float] = field(default_factory=list)
    """When each chunk came."""

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


class Client:
    """Asks one server, over as many connections as there are requests under way."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    def post(self, body: bytes) -> bytes:
        """A chat request as it goes over the wire."""
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def ask(self, request: bytes, due_s: float | None = None) -> Heard:
        """Never raises: what goes wrong is in `problem`. `due_s`: when it should have gone out."""
        heard = Heard(time.monotonic() if due_s is None else due_s)
        try:
            connection = await self._connection()
            await connection.ask(request, heard)
        except (OSError, httptools.HttpParserError) as error:
            heard.problem = type(error).__name__
        except asyncio.CancelledError:
            heard.problem = "late"
            raise
        else:
            self._idle.append(connection)
        return heard

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[None] | None = None
        self._heard: Heard | None = None
        self._in_piece, self._rest = 0, b""
        self.is_open = False

    async def ask(self, request: bytes, heard: Heard) -> None:
        self._heard, self._in_piece, self._rest = heard, 0, b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._answered
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not their base.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.close()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200 and self._heard is not None:
            self._heard.problem = f"status {status}"

    def on_chunk_header(self) -> None:
        self._in_piece = 0

    def on_body(self, body: bytes) -> None:
        heard = self._heard
        if heard is None:
            return
        text = self._rest + body
        heard.is_done = heard.is_done or _DONE in text
        end = 0
        for found in _CHUNK.finditer(text):
            end = found.end()
            heard.sent_us.append(int(found[1]))
            heard.came_s.append(time.monotonic())
            heard.n_merged += self._in_piece > 0
            self._in_piece += 1
        self._rest = text[max(end, len(text) - _KEPT_BYTES) :]

    def on_message_complete(self) -> None:
        if self._heard is not None:
            self._heard.ended_s = time.monotonic()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._answered = self._heard = None

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self._answered = self._heard = None
