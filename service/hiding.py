"""Streams whose tokens are counted for us, and told to nobody who did not ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from coe.service.telling import Telling
from coe.service.wire import ChatCall
from coe.types import Completion, Delta, RawRequest

_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def with_usage(call: ChatCall, telling: Telling) -> tuple[ChatCall, Telling]:
    """The call with its tokens counted at the end of a stream, as its client will not notice."""
    raw = call.generation.raw
    if raw is None or not raw.is_streamed or call.wants_usage:
        return call, telling
    options = raw.fields.get("stream_options")
    if isinstance(options, Mapping) and options.get("include_usage"):
        return call, telling
    asked = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    counted = RawRequest({**raw.fields, "stream_options": asked}, raw.route, True, raw.is_all)
    return replace(call, generation=replace(call.generation, raw=counted)), _Hiding(telling)


class _Hiding:
    """The inner telling without events that have no choices."""

    def __init__(self, inner: Telling) -> None:
        self._inner = inner
        self._rest = b""

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        return self._inner.whole(answer, decision_id, model)

    def begin(self, decision_id: str, model: str) -> bytes:
        return self._inner.begin(decision_id, model)

    def piece(self, delta: Delta) -> bytes:
        if not delta.raw:
            return self._flushed() + self._inner.piece(delta)
        kept = b"".join(self._kept(delta.raw))
        return self._inner.piece(replace(delta, raw=kept)) if kept else b""

    def end(self) -> bytes:
        return self._flushed() + self._inner.end()

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        return self._flushed() + self._inner.fail(envelope)

    def _kept(self, piece: bytes) -> list[bytes]:
        """The whole events so far that have choices, or are none of a completion."""
        data, begin, kept = self._rest + piece, 0, list[bytes]()
        for end in _EVENT_END.finditer(data):
            event = data[begin : end.end()]
            begin = end.end()
            if not _NO_CHOICES.search(event):
                kept.append(event)
        self._rest = data[begin:]
        return kept

    def _flushed(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest
