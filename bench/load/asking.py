"""The side that asks: HTTP through httptools on bare connections, to cost its core little.

What is looked for in a response is said by whoever derives from `Connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast
from urllib.parse import urlsplit

import httptools


class Connection(asyncio.Protocol):
    """Carries one request at a time. httptools calls the `on_…` methods as a response comes."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[None] | None = None
        self.is_open = False

    async def answered(self, request: bytes) -> None:
        """Sends it, and returns once its response is whole. Raises `OSError` if the connection
        ends before that, and `HttpParserError` for what is no HTTP.
        """
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._answered
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not their base.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or ConnectionResetError("ended early"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)
            self.close()

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._answered = None

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self._answered = None


C = TypeVar("C", bound=Connection)


class Connections(Generic[C]):
    """As many to one server as there are requests under way, kept for the next ones."""

    def __init__(self, url: str, make: Callable[[], C]) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._make = make
        self._idle: list[C] = []
        self._all: set[C] = set()

    def post(self, path: str, body: bytes, headers: str = "") -> bytes:
        """A request as it goes over the wire; each of the other headers ends its line."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n{headers}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def take(self) -> C:
        """One that is idle, or a new one. Raises `OSError`."""
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(self._make, self._host, self._port)
        self._all.add(connection)
        return connection

    def keep(self, connection: C) -> None:
        """Its request was answered."""
        if connection.is_open:
            self._idle.append(connection)
        else:
            self._all.discard(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()
