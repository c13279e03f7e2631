"""One connection of a client: uvicorn's, whose request heads end, in bytes and in time.

httptools collects a header for as long as one arrives, and nobody waits for it: without this a
client that trickles keeps a connection for ever, and one that pours fills the memory. Bodies are
bounded further in, where a request has a name.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = "the request's headers are too large"


class Connection(HttpToolsProtocol):
    """Ends what is not a request by then. A head that comes whole in one read is not looked at:
    what is read at once is bounded by the event loop.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 20.0
    """From the first byte of a request, or the beginning of the connection."""

    _n_head_bytes = 0
    _is_in_head = False
    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._is_in_head
        # There is no cycle before the first request, whatever its type says.
        if getattr(self.cycle, "response_complete", True):
            self._expect_head()
        super().data_received(data)
        if was_in_head and self._is_in_head:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > self.max_head_bytes:
                self._refuse_head()

    def on_message_begin(self) -> None:
        self._is_in_head, self._n_head_bytes = True, 0
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._overdue is None:
            self._overdue = self.loop.call_later(self.head_timeout_s, self._close)

    def _head_is_here(self) -> None:
        self._is_in_head = False
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _close(self) -> None:
        # Nobody is told: a client that sends no request waits for no answer.
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        self._head_is_here()
        told = _TOO_LARGE.encode("ascii")
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
            b"content-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(told), told)
        )
        self.transport.close()
