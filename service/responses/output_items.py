"""The items of a response's output as they grow: messages, reasoning, calls.

Each tells what happens to it as events without a sequence number, in the order that the API
promises: added, its parts with their deltas, done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Event = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]
PartKind = Literal["output_text", "refusal", "reasoning_text"]


class _Part:
    """A run of text of one kind within an item."""

    def __init__(self, kind: PartKind) -> None:
        self.kind = kind
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    def add(self, text: str, logprobs: Sequence[Any]) -> None:
        self._pieces.append(text)
        self._logprobs += logprobs

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def body(self) -> dict[str, Any]:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        if self.kind == "reasoning_text":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": list(self._logprobs),
        }

    def done(self) -> Event:
        told: Event = {"refusal" if self.kind == "refusal" else "text": self.text}
        if self.kind == "output_text":
            told["logprobs"] = list(self._logprobs)
        return {"type": f"response.{self.kind}.done", **told}


class TextItem:
    """A message, or the reasoning before one: a list of parts."""

    def __init__(self, item_id: str, index: int, is_reasoning: bool) -> None:
        self._id = item_id
        self._index = index
        self.is_reasoning = is_reasoning
        self._parts: list[_Part] = []
        self._status: Status = "in_progress"

    @property
    def said(self) -> str:
        return "".join(part.text for part in self._parts)

    def body(self) -> dict[str, Any]:
        content = [part.body() for part in self._parts]
        if self.is_reasoning:
            return {
                "id": self._id,
                "type": "reasoning",
                "summary": [],
                "content": content,
                "status": self._status,
            }
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "status": self._status,
        }

    def opened(self) -> list[Event]:
        return [_added(self._index, self.body())]

    def add(self, kind: PartKind, text: str, logprobs: Sequence[Any] = ()) -> list[Event]:
        events: list[Event] = []
        if not self._parts or self._parts[-1].kind != kind:
            events += self._part_closed()
            self._parts.append(_Part(kind))
            part = self._parts[-1].body()
            events.append({"type": "response.content_part.added", **self._place(), "part": part})
        self._parts[-1].add(text, logprobs)
        told = {"logprobs": list(logprobs)} if kind == "output_text" else {}
        events.append({"type": f"response.{kind}.delta", **self._place(), "delta": text, **told})
        return events

    def closed(self, status: Status) -> list[Event]:
        self._status = status
        return [*self._part_closed(), _done(self._index, self.body())]

    def _part_closed(self) -> list[Event]:
        if not self._parts:
            return []
        part = self._parts[-1]
        return [
            {**part.done(), **self._place()},
            {"type": "response.content_part.done", **self._place(), "part": part.body()},
        ]

    def _place(self) -> dict[str, Any]:
        return {
            "item_id": self._id,
            "output_index": self._index,
            "content_index": len(self._parts) - 1,
        }


class CallItem:
    """A call of one function."""

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        self._id = item_id
        self._index = index
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []
        self._status: Status = "in_progress"

    @property
    def chat_call(self) -> dict[str, Any]:
        """The call as a chat message has it."""
        function = {"name": self._name, "arguments": "".join(self._pieces)}
        return {"id": self._call_id, "type": "function", "function": function}

    def body(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
            "status": self._status,
        }

    def opened(self) -> list[Event]:
        return [_added(self._index, self.body())]

    def add(self, arguments: str) -> list[Event]:
        self._pieces.append(arguments)
        return [
            {
                "type": "response.function_call_arguments.delta",
                "item_id": self._id,
                "output_index": self._index,
                "delta": arguments,
            }
        ]

    def closed(self, status: Status) -> list[Event]:
        self._status = status
        done = {
            "type": "response.function_call_arguments.done",
            "item_id": self._id,
            "output_index": self._index,
            "name": self._name,
            "arguments": "".join(self._pieces),
        }
        return [done, _done(self._index, self.body())]


def _added(index: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(index: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}
