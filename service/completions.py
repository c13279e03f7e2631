"""`POST /v1/completions`: the older protocol, as it came or answered as a chat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coe.service.calls import own_fields, read_call
from coe.service.chat_chunks import ChatChunks, parsed_answer
from coe.service.chunks import DONE, error_event
from coe.service.completions_wire import (
    TEXT_COMPLETION_PREFIX,
    CompletionsCall,
    TextChunkWriter,
    read_completions,
    text_completion,
)
from coe.service.control import Control
from coe.service.errors import InvalidRequest
from coe.service.reply import to_json
from coe.service.telling import Telling
from coe.service.wire import ChatCall
from coe.types import Completion, Delta, RawRequest

ROUTE = "completions"
# In the place of prompts that are no text: tokens, which say nothing to a router.
_NO_TEXT = ""


def read_completions_call(
    raw: Mapping[str, Any], control: Control, tenant: str
) -> tuple[ChatCall, Telling]:
    """An expert's own server gets the prompt as it came; others are asked it as a chat.

    Several prompts, and what a chat cannot do, only a server can answer.
    """
    complaint: InvalidRequest | None = None
    try:
        told: CompletionsCall | None = read_completions(raw)
    except InvalidRequest as error:
        complaint, told = error, None
    if told is not None and len(told.chats) > 1:
        complaint = InvalidRequest("prompt must be one text here", param="prompt")
    call = read_call(_chat_body(raw, told), control, tenant)
    complaint = complaint or call.complaint
    passed = RawRequest(own_fields(raw), ROUTE, call.is_streamed, complaint is not None)
    generation = replace(call.generation, raw=passed)
    call = replace(call, generation=generation, complaint=complaint)
    return call, _CompletionsTelling(told)


def _chat_body(raw: Mapping[str, Any], told: CompletionsCall | None) -> Mapping[str, Any]:
    """A chat that asks the same, as far as one can: what routing and other experts go by."""
    if told is not None:
        return {**told.chats[0], "model": told.model}
    prompt = raw.get("prompt")
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    text = first if isinstance(first, str) else _NO_TEXT
    kept = ("model", "stream", "stream_options", "max_tokens", "coe")
    body = {name: raw[name] for name in kept if name in raw}
    return {**body, "messages": [{"role": "user", "content": text}]}


class _CompletionsTelling:
    """As text completions. An expert's own response goes on as it is."""

    def __init__(self, call: CompletionsCall | None) -> None:
        self._call = call
        self._chunks = ChatChunks()
        self._writer: TextChunkWriter | None = None
        self._is_raw = False

    def whole(self, answer: bytes | Completion, decision_id: str, model: str) -> bytes:
        if isinstance(answer, bytes):
            return answer
        assert self._call is not None  # or only raw answers come
        completion_id = TEXT_COMPLETION_PREFIX + decision_id
        return to_json(text_completion(self._call, completion_id, model, [parsed_answer(answer)]))

    def begin(self, decision_id: str, model: str) -> bytes:
        if self._call is not None:
            self._writer = TextChunkWriter(self._call, TEXT_COMPLETION_PREFIX + decision_id, model)
        return b""

    def piece(self, delta: Delta) -> bytes:
        if delta.raw or self._is_raw or self._writer is None:
            self._is_raw = True
            return delta.raw
        told = (self._writer.chunk(chunk) for chunk in self._chunks.read(delta))
        return b"".join(_event(chunk) for chunk in told if chunk is not None)

    def end(self) -> bytes:
        if self._is_raw or self._writer is None or self._call is None:
            return b""
        return (_event(self._writer.usage()) if self._call.wants_usage else b"") + DONE

    def fail(self, envelope: Mapping[str, object]) -> bytes:
        return error_event(envelope)


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(chunk) + b"\n\n"
