"""An expert's server that fails in the way it is told to.

    python -m bench.resilience.upstream --port 8100

`POST /fail/<way>` sets how it fails from then on (`none` ends it), `POST /chunks/<n>` how long its
streams are, and `GET /counts` tells what it has seen. Written on bare transports, because what is
to be shown are connections that break.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
from collections import Counter

import orjson
import uvloop

from bench.load.answering import STREAM_HEAD, Answering, piece, whole

WAYS = ("none", "hang", "reset", "reset-mid-body", "500", "slow-loris", "wrong-json", "cut-stream")
N_CHUNKS = 10
THINK_S = 0.02
PACE_S = 0.5
"""Between two chunks of a stream whose length was set."""
_SLOW_S = 0.5
"""Between two bytes of an answer that never comes to its end."""


class State:
    """What all connections share."""

    def __init__(self) -> None:
        self.way = "none"
        self.n_chunks = N_CHUNKS
        self.pause_s = THINK_S
        self.counts: Counter[str] = Counter()


class Connection(Answering):
    """One connection, one request at a time."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.counts["open"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.counts["open"] -= 1
        if self._answering is not None and not self._answering.done():
            self._answering.cancel()
            self._state.counts["cancelled"] += 1

    def on_message_complete(self) -> None:
        url = self._url.decode()
        if url.startswith("/fail/"):
            self._state.way = url.removeprefix("/fail/")
            self._transport.write(whole(b"{}"))
        elif url.startswith("/chunks/"):
            self._state.n_chunks = int(url.removeprefix("/chunks/"))
            self._state.pause_s = PACE_S
            self._transport.write(whole(b"{}"))
        elif url == "/counts":
            self._transport.write(whole(orjson.dumps(dict(self._state.counts))))
        elif not url.endswith("/chat/completions"):
            self._transport.write(whole(orjson.dumps({"object": "list", "data": []})))
        else:
            self._state.counts["asked"] += 1
            answer = self._answer(self._state.way, self._is_streamed)
            self._answering = self._loop.create_task(answer)
            self._state.counts["answering"] += 1
            self._answering.add_done_callback(self._answered)

    def _answered(self, _: asyncio.Task[None]) -> None:
        self._state.counts["answering"] -= 1

    async def _answer(self, way: str, is_streamed: bool) -> None:
        if way == "hang":
            await self._loop.create_future()
        if way == "reset":
            self._reset()
            return
        await asyncio.sleep(THINK_S)
        if way == "500":
            self._transport.write(whole(b'{"error":{"message":"broken"}}', b"500 Broken"))
        elif way == "wrong-json":
            self._transport.write(whole(b'{"choices": [{"index": 0, "mess'))
        elif way == "slow-loris":
            await self._drip(whole(_completion()))
        elif is_streamed:
            await self._stream(way)
        elif way == "reset-mid-body":
            self._transport.write(whole(_completion())[:-40])
            await asyncio.sleep(THINK_S)
            self._reset()
        else:
            self._transport.write(whole(_completion()))

    async def _stream(self, way: str) -> None:
        self._transport.write(STREAM_HEAD)
        for number in range(self._state.n_chunks):
            self._transport.write(piece(_event({"content": f"word{number} "})))
            await asyncio.sleep(self._state.pause_s)
            if way in ("cut-stream", "reset-mid-body") and number == N_CHUNKS // 2:
                self._reset()
                return
        events = (_event({}, "stop"), b"data: [DONE]\n\n", b"")
        self._transport.write(b"".join(map(piece, events)))

    async def _drip(self, answer: bytes) -> None:
        for byte in answer:
            self._transport.write(bytes([byte]))
            await asyncio.sleep(_SLOW_S)

    def _reset(self) -> None:
        """RST in place of FIN, as a machine that has lost the connection sends it."""
        wire = self._transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _completion() -> bytes:
    message = {"role": "assistant", "content": "word " * N_CHUNKS}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 8, "completion_tokens": N_CHUNKS, "total_tokens": 8 + N_CHUNKS}
    return orjson.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


async def _serve(port: int) -> None:
    state = State()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(state), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(options.parse_args().port))
