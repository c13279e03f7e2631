"""An answer as parsed chat completions, for protocols that are written from those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from coe.engines.completion_stream import usage_body
from coe.engines.sse import SSEParser
from coe.service.chunks import completion_body
from coe.types import Completion, Delta

Chunk = Mapping[str, Any]


def parsed_answer(answer: bytes | Completion) -> Chunk:
    """A whole answer as a `chat.completion`."""
    if isinstance(answer, bytes):
        parsed: dict[str, Any] = orjson.loads(answer)
        return parsed
    return completion_body("", "", answer)


class ChatChunks:
    """Reads deltas of either kind into `chat.completion.chunk` objects."""

    def __init__(self) -> None:
        self._parser = SSEParser()
        self._is_raw = False

    def read(self, delta: Delta) -> list[Chunk]:
        """What one delta says; nothing where it completes no event."""
        if delta.raw:
            self._is_raw = True
            return [chunk for event in self._parser.feed(delta.raw) for chunk in _of(event.data)]
        if self._is_raw:
            return []
        chunks: list[Chunk] = []
        if delta.text:
            chunks.append({"choices": [{"index": 0, "delta": {"content": delta.text}}]})
        if delta.finish_reason is not None:
            end = {"index": 0, "delta": {}, "finish_reason": delta.finish_reason}
            chunks.append({"choices": [end], "usage": usage_body(delta.usage)})
        return chunks


def _of(data: bytes) -> list[Chunk]:
    """An event that is no chunk, such as the end mark, says nothing."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return []
    return [chunk] if isinstance(chunk, dict) else []
