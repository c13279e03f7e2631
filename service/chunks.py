"""A completion in OpenAI's JSON: whole, or as server-sent events."""

from __future__ import annotations

import time
from collections.abc import Mapping

from coe.engines.completion_stream import usage_body
from coe.service.reply import to_json
from coe.types import Completion, FinishReason, Usage

DONE = b"data: [DONE]\n\n"


def completion_body(completion_id: str, model: str, completion: Completion) -> dict[str, object]:
    """`chat.completion`."""
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": completion.finish_reason,
            }
        ],
        "usage": usage_body(completion.usage),
    }


def error_event(envelope: Mapping[str, object]) -> bytes:
    return b"data: " + to_json(envelope) + b"\n\n"


class ChunkWriter:
    """Writes the `chat.completion.chunk` events of one stream.

    What all chunks share is serialised once. With `wants_usage` every chunk but the last says
    `"usage": null`, as OpenAI's do.
    """

    def __init__(self, completion_id: str, model: str, wants_usage: bool) -> None:
        shared = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._head = b"data: " + to_json(shared)[:-1]
        usage = b',"usage":null' if wants_usage else b""
        choice = self._head + usage + b',"choices":[{"index":0,"delta":{'
        self._first = (
            choice + b'"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        )
        self._text_head = choice + b'"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._last_head = choice + b'},"logprobs":null,"finish_reason":'

    def first(self) -> bytes:
        """Says who speaks."""
        return self._first

    def text(self, text: str) -> bytes:
        return self._text_head + to_json(text) + self._text_tail

    def last(self, reason: FinishReason) -> bytes:
        return self._last_head + to_json(reason) + b"}]}\n\n"

    def usage(self, usage: Usage | None) -> bytes:
        return self._head + b',"choices":[],"usage":' + to_json(usage_body(usage)) + b"}\n\n"
