"""A chat completion, whole or in chunks → a response and the events that tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coe.service.reply import to_json
from coe.service.responses.items import ChatMessage
from coe.service.responses.output_items import CallItem, Event, PartKind, Status, TextItem
from coe.service.responses.request import ResponsesCall

RESPONSE_PREFIX = "resp_"
"""A response's id is its decision's, after this."""
# What broke an answer off, by the finish reason of chat.
_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKE_OFF = {"message": "the answer broke off before its end", "type": "server_error"}


def sse(events: Sequence[Event]) -> bytes:
    """Events as they go over the wire."""
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + to_json(event) + b"\n\n"
        for event in events
    )


def whole_response(
    call: ResponsesCall, response_id: str, model: str, completion: Mapping[str, Any]
) -> ResponseWriter:
    """The finished response that a `chat.completion` makes."""
    writer = ResponseWriter(call, response_id, model)
    writer.begin()
    choices = [{**choice, "delta": choice.get("message")} for choice in completion["choices"]]
    writer.chunk({"choices": choices, "usage": completion.get("usage")})
    writer.end()
    return writer


class ResponseWriter:
    """Follows the chunks of one chat completion, and tells each as events of a response.

    `begin`, then `chunk` for each, then `end`, or `fail` at any time. What is told is also kept:
    `response` is at all times what the events so far come to.
    """

    def __init__(
        self,
        call: ResponsesCall,
        response_id: str,
        model: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._call = call
        self._id = response_id
        self._stem = response_id.removeprefix(RESPONSE_PREFIX)
        self._model = model
        self._clock = clock
        self._created_at = int(clock())
        self._items: list[TextItem | CallItem] = []
        self._text: TextItem | None = None
        """The message or the reasoning that is being said."""
        self._calls: dict[object, tuple[CallItem, str | None]] = {}
        """The call that pieces go to, and the id it came with, by the index it goes by."""
        self._call_ids: set[str] = set()
        self._finish_reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._n_events = 0
        self._status = "in_progress"
        self._details: dict[str, Any] = {}
        """What the response says besides of how it ended."""

    @property
    def is_ended(self) -> bool:
        return self._status != "in_progress"

    @property
    def response(self) -> dict[str, Any]:
        """The response object as far as it is known."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "model": self._model,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
            "output": [item.body() for item in self._items],
            "usage": _usage(self._usage),
            **self._call.echoed,
            "status": self._status,
            **self._details,
        }

    @property
    def turns(self) -> tuple[ChatMessage, ...]:
        """The conversation with the answer: what a later request goes on from."""
        texts = [item for item in self._items if isinstance(item, TextItem)]
        said = "".join(item.said for item in texts if not item.is_reasoning)
        answer: ChatMessage = {"role": "assistant", "content": said}
        calls = [item.chat_call for item in self._items if isinstance(item, CallItem)]
        if calls:
            answer |= {"content": said or None, "tool_calls": calls}
        return (*self._call.turns, answer)

    def begin(self) -> list[Event]:
        response = self.response
        return self._numbered(
            [
                {"type": "response.created", "response": response},
                {"type": "response.in_progress", "response": response},
            ]
        )

    def chunk(self, chunk: Mapping[str, Any]) -> list[Event]:
        """What one parsed `chat.completion.chunk` adds; nothing once the response has ended."""
        if self.is_ended:
            return []
        self._usage = chunk.get("usage") or self._usage
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            if choice.get("index"):
                continue
            events += self._delta(choice.get("delta") or {}, choice.get("logprobs"))
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return self._numbered(events)

    def end(self) -> list[Event]:
        """Closes what is open. An answer without a finish reason has failed."""
        if self.is_ended:
            return []
        if self._finish_reason is None:
            return self.fail(_BROKE_OFF)
        reason = _CUT_SHORT.get(self._finish_reason)
        status: Status = "completed" if reason is None else "incomplete"
        events: list[Event] = []
        if not self._items:
            events += self._said(is_reasoning=False)
        events += self._text_closed(status)
        for item in self._items:
            if isinstance(item, CallItem):
                events += item.closed(status)
        self._status = status
        if reason is None:
            self._details["completed_at"] = int(self._clock())
        else:
            self._details["incomplete_details"] = {"reason": reason}
        events.append({"type": f"response.{status}", "response": self.response})
        return self._numbered(events)

    def fail(self, error: Mapping[str, Any]) -> list[Event]:
        """`error`: what OpenAI's envelope holds under that name."""
        if self.is_ended:
            return []
        is_refused = error.get("type") == "rate_limit_error"
        code = "rate_limit_exceeded" if is_refused else "server_error"
        told = {"code": code, "message": error.get("message") or "the answer failed"}
        self._status = "failed"
        self._details["error"] = told
        return self._numbered([{"type": "response.failed", "response": self.response}])

    def _delta(self, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None) -> list[Event]:
        events: list[Event] = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str):
            events += self._say("reasoning_text", reasoning)
        if delta.get("content"):
            events += self._say("output_text", delta["content"], _logprobs(logprobs))
        if delta.get("refusal"):
            events += self._say("refusal", delta["refusal"])
        for position, call in enumerate(delta.get("tool_calls") or ()):
            events += self._called(call, position)
        return events

    def _say(self, kind: PartKind, text: str, logprobs: Sequence[Any] = ()) -> list[Event]:
        events = self._said(is_reasoning=kind == "reasoning_text")
        assert self._text is not None
        return events + self._text.add(kind, text, logprobs)

    def _said(self, is_reasoning: bool) -> list[Event]:
        """Makes sure that an item of that kind is being said."""
        if self._text is not None and self._text.is_reasoning == is_reasoning:
            return []
        events = self._text_closed("completed")
        index = len(self._items)
        prefix = "rs" if is_reasoning else "msg"
        self._text = TextItem(f"{prefix}_{self._stem}_{index}", index, is_reasoning)
        self._items.append(self._text)
        return events + self._text.opened()

    def _text_closed(self, status: Status) -> list[Event]:
        text, self._text = self._text, None
        return [] if text is None else text.closed(status)

    def _called(self, call: Mapping[str, Any], position: int) -> list[Event]:
        """Calls stay open to the end: pieces of several may come in turns."""
        function = call.get("function") or {}
        name, given_id = function.get("name") or "", call.get("id")
        index = call.get("index")
        key = position if index is None else index
        item, known_id = self._calls.get(key, (None, None))
        events: list[Event] = []
        # Some engines number all calls 0, and tell them apart by name and id only.
        if item is None or (name and known_id and given_id not in (None, known_id)):
            events += self._text_closed("completed")
            item = self._new_call(given_id, name)
            self._calls[key] = (item, given_id)
            events += item.opened()
        if function.get("arguments"):
            events += item.add(function["arguments"])
        return events

    def _new_call(self, given_id: str | None, name: str) -> CallItem:
        index = len(self._items)
        own_id = f"call_{self._stem}_{index}"
        call_id = own_id if not given_id or given_id in self._call_ids else given_id
        self._call_ids.add(call_id)
        item = CallItem(f"fc_{self._stem}_{index}", index, call_id, name)
        self._items.append(item)
        return item

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._n_events
            self._n_events += 1
        return events


def _logprobs(given: Mapping[str, Any] | None) -> list[Any]:
    return list((given or {}).get("content") or ())


def _usage(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    read = given.get("prompt_tokens_details") or {}
    written = given.get("completion_tokens_details") or {}
    n_input, n_output = given.get("prompt_tokens") or 0, given.get("completion_tokens") or 0
    return {
        "input_tokens": n_input,
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens") or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": n_output,
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": n_input + n_output,
    }
