"""How an answer is told: the protocol a client speaks, written from what an expert says.

An answer comes as deltas, which carry either text or pieces of the expert's own response. The
latter go on as they are wherever the client's protocol is the expert's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from coe.service.chunks import DONE, ChunkWriter, completion_body, error_event
from coe.service.reply import to_json
from coe.service.wire import COMPLETION_PREFIX, ChatCall
from coe.types import Completion, Delta


class Telling(Protocol):
    """Writes one answer, either whole or piece by piece."""

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        """A response's body, of an expert's own response or of what it said."""
        ...

    def begin(self, decision_id: str, model: str) -> bytes:
        """What comes before the first piece. Called once, before any of the others."""
        ...

    def piece(self, delta: Delta) -> bytes:
        """What one delta adds; it may be nothing."""
        ...

    def end(self) -> bytes:
        """What comes after a whole answer."""
        ...

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        """What comes after an answer that broke off; the response is left without its end."""
        ...


class ChatTelling:
    """As chat completions."""

    def __init__(self, call: ChatCall) -> None:
        self._wants_usage = call.wants_usage
        self._writer: ChunkWriter | None = None
        self._decision_id, self._model = "", ""
        self._is_raw = False

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        if isinstance(answer, bytes):
            return answer
        return to_json(completion_body(COMPLETION_PREFIX + decision_id, model, answer))

    def begin(self, decision_id: str, model: str) -> bytes:
        self._decision_id, self._model = decision_id, model
        return b""

    def piece(self, delta: Delta) -> bytes:
        if delta.raw:
            self._is_raw = True
            return delta.raw
        if self._is_raw:
            return b""
        events = b""
        if self._writer is None:
            completion_id = COMPLETION_PREFIX + self._decision_id
            self._writer = ChunkWriter(completion_id, self._model, self._wants_usage)
            events = self._writer.first()
        if delta.text:
            events += self._writer.text(delta.text)
        if delta.finish_reason is not None:
            events += self._writer.last(delta.finish_reason)
            if self._wants_usage:
                events += self._writer.usage(delta.usage)
        return events

    def end(self) -> bytes:
        return b"" if self._is_raw else DONE

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        return error_event(envelope)
