"""One connection of a client: uvicorn's, whose request heads end, in bytes and in time.

httptools collects a header for as long as one arrives, and nobody waits for it: without this a
client that trickles keeps a connection for ever, and one that pours fills the memory. Bodies are
bounded further in, where a request has a name.

Whoever is not let in hears so here, at the end of the head: no task is made, and the body is read
past. That costs a tenth of what the way through the app would, and there are many of them just when
there is no time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coe.service.admission import INTAKE, LET_IN, Intake, Refusal

_TOO_LARGE = "the request's headers are too large"
_CLOSE = b"connection: close\r\n"


class Connection(HttpToolsProtocol):
    """Ends what is not a request by then. A head that comes whole in one read is not looked at:
    what is read at once is bounded by the event loop.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 20.0
    """From the first byte of a request, or the beginning of the connection."""

    _is_refused = False
    """Whether the request that is being read has had its answer."""
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
        super().data_received(data)
        if was_in_head and self._is_in_head:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > self.max_head_bytes:
                self._refuse_head()
        if self._is_in_head or (self._is_idle and self.timeout_keep_alive_task is None):
            self._expect_head()

    def on_message_begin(self) -> None:
        self._is_in_head, self._n_head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        intake: Intake | None = self.app_state.get(INTAKE)
        is_asked = self._is_idle and self.parser.get_method() == b"POST"
        if intake is None or not is_asked or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        # A refusal that came before, on the same read, has begun to wait for the next request.
        self._unset_keepalive_if_required()
        refusal = intake.begin(self.url)
        if refusal is not None:
            self._refuse(refusal)
            return
        self.scope[LET_IN] = time.monotonic()  # type: ignore[literal-required]
        try:
            super().on_headers_complete()
        except BaseException:
            intake.end()  # nobody will serve what cannot be read
            raise

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            super().on_message_complete()
            return
        self._is_refused = False
        self._head_is_here()
        self.on_response_complete()  # as after any other, the next one has its time to come

    @property
    def _is_idle(self) -> bool:
        """Whether nobody on this connection waits for an answer."""
        # There is no cycle before the first request, whatever its type says.
        return getattr(self.cycle, "response_complete", True)

    def _refuse(self, refusal: Refusal) -> None:
        """Answers before the body has come; who would wait with it for a word has to connect anew,
        for nobody knows whether it comes.
        """
        self._is_refused = True
        if self.flow.write_paused:
            self.transport.abort()  # it asks on and reads nothing of what it is told
            return
        is_kept = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        is_kept = is_kept and not self.expect_100_continue
        lines = b"".join([b"%b: %b\r\n" % told for told in self.server_state.default_headers])
        self.transport.write(refusal.response(self.headers, lines if is_kept else lines + _CLOSE))
        if not is_kept:
            self.transport.close()

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
