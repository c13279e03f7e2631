"""What is heard of one request, chunk by chunk."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

import httptools

from bench.gateway.mock import MARK
from bench.load.asking import Connection, Connections

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
        self._connections = Connections(url, _Hearing)

    def post(self, body: bytes) -> bytes:
        """A chat request as it goes over the wire."""
        return self._connections.post("/v1/chat/completions", body)

    async def ask(self, request: bytes, due_s: float | None = None) -> Heard:
        """Never raises: what goes wrong is in `problem`. `due_s`: when it should have gone out."""
        heard = Heard(time.monotonic() if due_s is None else due_s)
        try:
            connection = await self._connections.take()
            await connection.ask(request, heard)
        except (OSError, httptools.HttpParserError) as error:
            heard.problem = type(error).__name__
        except asyncio.CancelledError:
            heard.problem = "late"
            raise
        else:
            self._connections.keep(connection)
        return heard

    def close(self) -> None:
        self._connections.close()


class _Hearing(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._heard: Heard | None = None
        self._in_piece, self._rest = 0, b""

    async def ask(self, request: bytes, heard: Heard) -> None:
        self._heard, self._in_piece, self._rest = heard, 0, b""
        try:
            await self.answered(request)
        finally:
            self._heard = None

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
        super().on_message_complete()
