"""A server's response handed on as it is, watched only for whether it is whole.

The bytes are the server's own: nothing is parsed on the way of a stream, and nothing is written
anew. What counts is read from the last events, after they have gone on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson

from coe.engines.completion_stream import CompletionReader
from coe.engines.sse import SSEParser
from coe.errors import UpstreamError
from coe.types import Delta, FinishReason, Usage

RAW_ROUTES = frozenset({"chat/completions", "completions", "embeddings", "responses"})
"""What OpenAI-compatible servers answer to. Those that do not know one of them say so."""
MAX_BODY_BYTES = 64 * 1024 * 1024
"""More than this is no answer but a fault."""
_TAIL_BYTES = 8 * 1024
"""So much of a stream's end is kept: the last words, the usage and the end mark fit."""
# Within an event no line begins so: JSON writes its line ends as escapes.
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]\s*$")
_DONE_BYTES = 64


class Pieces(Protocol):
    """The body of a response, as it arrives."""

    async def readany(self) -> bytes:
        """Empty at the end."""
        ...


async def raw_stream(expert_id: str, content: Pieces) -> AsyncIterator[Delta]:
    """Server-sent events as they arrive. Raises `UpstreamError` for a stream that is not whole."""
    stream = RawStream(expert_id)
    while chunk := await content.readany():
        yield stream.read(chunk)
        if stream.is_done:
            break
    yield stream.end()


async def whole_answer(expert_id: str, content: Pieces) -> tuple[Delta, Delta]:
    """A response that comes whole, and its end. Raises `UpstreamError` unless it is an object."""
    body = await _whole_body(expert_id, content)
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _no_answer(expert_id, body) from None
    if not isinstance(answer, dict) or answer.get("error"):
        raise _no_answer(expert_id, body)
    return Delta(raw=body), Delta(finish_reason=_reason(answer), usage=_usage(answer))


async def _whole_body(expert_id: str, content: Pieces) -> bytes:
    chunks: list[bytes] = []
    n_bytes = 0
    while chunk := await content.readany():
        chunks.append(chunk)
        n_bytes += len(chunk)
        if n_bytes > MAX_BODY_BYTES:
            problem = f"answered with more than {MAX_BODY_BYTES} bytes"
            raise UpstreamError(expert_id, problem)
    return b"".join(chunks)


class RawStream:
    """Server-sent events on their way through."""

    def __init__(self, expert_id: str) -> None:
        self._expert_id = expert_id
        self._tail = bytearray()
        self._is_first = True

    def read(self, chunk: bytes) -> Delta:
        """The chunk. Raises `UpstreamError` if the stream begins with a failure.

        A failure further on is the client's to read: it has begun to hear the answer.
        """
        if self._is_first:
            self._is_first = False
            self._check_beginning(chunk)
        self._tail += chunk
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]
        return Delta(raw=chunk)

    @property
    def is_done(self) -> bool:
        """Whether the server said that no more will come."""
        return _DONE.search(self._tail[-_DONE_BYTES:]) is not None

    def end(self) -> Delta:
        """Raises `UpstreamError` if the stream broke off before its end mark."""
        if not self.is_done:
            raise UpstreamError(
                self._expert_id,
                "its server ended the answer without its end mark, so that it may not be whole",
            )
        reason: FinishReason = "stop"
        usage: Usage | None = None
        for event in SSEParser().feed(_from_a_line_start(bytes(self._tail))):
            try:
                chunk: Any = orjson.loads(event.data)
            except orjson.JSONDecodeError:
                continue
            if isinstance(chunk, dict):
                usage = _usage(chunk) or usage
                reason = _reason(chunk) if chunk.get("choices") else reason
        return Delta(finish_reason=reason, usage=usage)

    def _check_beginning(self, chunk: bytes) -> None:
        if chunk.lstrip()[:1] in (b"{", b"<"):
            raise _no_answer(self._expert_id, chunk)
        if b'"error"' in chunk:
            reader = CompletionReader(self._expert_id)
            for event in SSEParser().feed(chunk)[:1]:
                reader.read(event)  # tells of an error in the words of one


def _from_a_line_start(tail: bytes) -> bytes:
    """Without the event that was cut at the beginning; a stream kept whole loses nothing."""
    if len(tail) <= _TAIL_BYTES:
        return tail
    return tail[tail.find(b"\n") + 1 :]


def _reason(answer: dict[str, Any]) -> FinishReason:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    reason = first.get("finish_reason") if isinstance(first, dict) else None
    return reason if reason in ("length", "tool_calls", "content_filter") else "stop"


def _usage(answer: dict[str, Any]) -> Usage | None:
    counted = answer.get("usage")
    if not isinstance(counted, dict):
        return None
    prompt, completion = (counted.get(key, 0) for key in ("prompt_tokens", "completion_tokens"))
    if not all(type(count) is int and count >= 0 for count in (prompt, completion)):
        return None
    return Usage(prompt, completion)


def _no_answer(expert_id: str, body: bytes) -> UpstreamError:
    shown = body[:200].decode("utf-8", "replace")
    return UpstreamError(expert_id, f"answered with something that is no answer: {shown}")
