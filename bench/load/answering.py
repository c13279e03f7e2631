"""The side that answers: HTTP through httptools, without a framework, to cost its core little."""

from __future__ import annotations

import asyncio
import re
from typing import cast

import httptools

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_STREAMED = re.compile(rb'"stream"\s*:\s*true')


class Answering(asyncio.Protocol):
    """One connection, one request at a time: `on_message_complete` is where it is answered."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._url, self._body = b"", b""

    @property
    def _is_streamed(self) -> bool:
        """Whether a stream is asked for."""
        return _STREAMED.search(self._body) is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not their base.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A response that comes in one."""
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def piece(body: bytes) -> bytes:
    """One piece of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(body), body)
