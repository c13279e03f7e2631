"""An expert that thinks for as long as it is told and says as much: what all gateways ask.

    python -m bench.gateway.mock --port 8100

What it is to do stands in the request's text, which every gateway passes on: see `Task`. `GET
/counts` tells how much it was asked and has said.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from dataclasses import dataclass

import orjson
import uvloop

from bench.load.answering import STREAM_HEAD, Answering, piece, whole

MODEL = "expert"
MARK = b"tok|"
"""Opens the text of every chunk; the monotonic microsecond it was sent at follows, and `|`."""
_TASK = re.compile(rb"think=(\d+) bytes=(\d+) chunks=(\d+) rate=(\d+)")


@dataclass(frozen=True, slots=True)
class Task:
    """What the mock is to do with one request."""

    think_ms: int = 0
    n_bytes: int = 200
    """Of the text, where it comes whole."""
    n_chunks: int = 0
    """0: a stream has the whole text in one chunk."""
    rate: int = 50
    """Chunks a second."""

    @classmethod
    def of_body(cls, body: bytes) -> Task:
        found = _TASK.search(body)
        return cls(*map(int, found.groups())) if found else cls()

    def __str__(self) -> str:
        return f"think={self.think_ms} bytes={self.n_bytes} chunks={self.n_chunks} rate={self.rate}"


@dataclass(slots=True)
class Counts:
    requests: int = 0
    chunks: int = 0
    """Of streams that were asked for a number of chunks."""


class MockExpert(Answering):
    """One connection, one request at a time."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def on_message_complete(self) -> None:
        if not self._url.endswith(b"/chat/completions"):
            self._transport.write(whole(self._told()))
            return
        self._counts.requests += 1
        task = Task.of_body(self._body)
        answer = self._begin_stream if self._is_streamed else self._answer
        self._timer = self._loop.call_later(task.think_ms / 1000, answer, task)

    def _told(self) -> bytes:
        if self._url == b"/counts":
            return orjson.dumps(self._counts)
        # Whatever else is asked, by gateways that look whether the expert is well, has one answer.
        return orjson.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def _answer(self, task: Task) -> None:
        message = {"role": "assistant", "content": "x" * task.n_bytes}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {**_head("chat.completion"), "choices": [choice], "usage": _usage(1)}
        self._transport.write(whole(orjson.dumps(body)))

    def _begin_stream(self, task: Task) -> None:
        first = _event({"role": "assistant", "content": ""})
        self._transport.write(STREAM_HEAD + piece(first))
        if task.n_chunks == 0:
            self._transport.write(piece(_event({"content": "x" * task.n_bytes})))
            self._end_stream(1)
            return
        self._say(task, 0, self._loop.time())

    def _say(self, task: Task, n_said: int, began_s: float) -> None:
        """One chunk now, the next when it is due."""
        text = f"{MARK.decode()}{time.monotonic_ns() // 1000}|"
        self._transport.write(piece(_event({"content": text})))
        self._counts.chunks += 1
        n_said += 1
        if n_said == task.n_chunks:
            self._end_stream(n_said)
            return
        due_s = began_s + n_said / task.rate
        self._timer = self._loop.call_at(due_s, self._say, task, n_said, began_s)

    def _end_stream(self, n_tokens: int) -> None:
        usage = {**_head("chat.completion.chunk"), "choices": [], "usage": _usage(n_tokens)}
        events = [_event({}, "stop"), b"data: " + orjson.dumps(usage) + b"\n\n"]
        events += [b"data: [DONE]\n\n", b""]
        self._transport.write(b"".join(map(piece, events)))


def _head(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-mock", "object": kind, "created": 1_700_000_000, "model": MODEL}


def _usage(n_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": n_tokens, "total_tokens": 8 + n_tokens}


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return (
        b"data: " + orjson.dumps({**_head("chat.completion.chunk"), "choices": [choice]}) + b"\n\n"
    )


async def serve(port: int) -> None:
    counts = Counts()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MockExpert(counts), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8100)
    uvloop.run(serve(parser.parse_args().port))
