"""What an OpenAI-compatible server says, turned into deltas and errors.

Tolerant where servers differ (no usage, no `[DONE]`, odd finish reasons), strict where an
answer might be mistaken for whole: without a finish reason it is not.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from coe.engines.sse import ServerSentEvent
from coe.errors import CoeError, ContextOverflow, RequestError, UpstreamError
from coe.experts import Expert
from coe.types import Delta, FinishReason, Usage

_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_CUT_OFF = ("abort", "error")
# "maximum context length is 256 tokens", "max_model_len=256", "context window of 8192": the
# server's limit. The largest other number in such a message is what the request needs.
_CONTEXT_LIMIT = re.compile(
    r"(?:context (?:length|window|size)|max_model_len)\D{0,20}(\d+)", re.IGNORECASE
)
_MAX_SHOWN = 500


class CompletionReader:
    """Reads one streamed completion, event by event."""

    def __init__(self, expert_id: str) -> None:
        self._expert_id = expert_id
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self.is_done = False
        """Whether the server said that no more will come."""

    def read(self, event: ServerSentEvent) -> list[Delta]:
        """The text deltas in one event. Raises `UpstreamError` if it reports a failure."""
        if event.data == b"[DONE]":
            self.is_done = True
            return []
        try:
            chunk: Any = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            raise UpstreamError(
                self._expert_id, f"sent an event that is not JSON: {_shown(event.data)}"
            ) from None
        if not isinstance(chunk, dict) or event.event == "error" or chunk.get("error"):
            raise UpstreamError(
                self._expert_id,
                f"failed in the middle of its answer: {error_message(event.data)}",
                _status_in(chunk),
            )
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = Usage(
                self._count(usage, "prompt_tokens"), self._count(usage, "completion_tokens")
            )
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise self._malformed("choices", choices)
        return [delta for choice in choices if (delta := self._read(choice))]

    def end(self) -> Delta:
        """The last delta. Raises `UpstreamError` if the answer broke off before its end."""
        if self._reason is None:
            raise UpstreamError(
                self._expert_id,
                "its server ended the answer without a finish reason, so that it may not be "
                "whole; ask again, and look in that server's log if it goes on",
            )
        return Delta(finish_reason=self._reason, usage=self._usage)

    def _read(self, choice: Any) -> Delta | None:
        if not isinstance(choice, dict):
            raise self._malformed("choices", choice)
        reason = choice.get("finish_reason")
        if not isinstance(reason, str | None):
            raise self._malformed("finish_reason", reason)
        if reason in _CUT_OFF:
            raise UpstreamError(self._expert_id, f"cut its answer off (finish reason {reason!r})")
        if reason:
            # Some servers name the token that ended the answer; all of those are a stop.
            self._reason = _REASONS.get(reason, "stop")
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise self._malformed("delta", delta)
        text = delta.get("content")
        if not isinstance(text, str | None):
            raise self._malformed("content", text)
        return Delta(text=text) if text else None

    def _count(self, usage: dict[str, Any], key: str) -> int:
        count = usage.get(key)
        if count is None:
            return 0
        if type(count) is not int or count < 0:
            raise self._malformed(key, count)
        return count

    def _malformed(self, key: str, value: Any) -> UpstreamError:
        shown = _shown(orjson.dumps(value))
        return UpstreamError(self._expert_id, f"sent an event whose {key} is malformed: {shown}")


def refusal(expert: Expert, status: int, body: bytes) -> CoeError:
    """The error for a status of 400 or more: the caller's fault or the expert's."""
    message = error_message(body)
    limit = _CONTEXT_LIMIT.search(message)
    if status in (400, 413, 422) and limit is not None:
        context = int(limit[1])
        numbers = [int(number) for number in re.findall(r"\b\d+\b", message)]
        needed = max(numbers)
        # vLLM stops counting a prompt at the limit and says so; others name no number at all.
        is_lower_bound = needed <= context or "at least" in message
        return ContextOverflow(
            expert.id, max(context + 1, needed), context, is_lower_bound=is_lower_bound
        )
    if status in (400, 422):
        return RequestError(f"expert {expert.id!r} refuses this request: {message}")
    return UpstreamError(expert.id, f"answered with status {status}: {message}", status)


def usage_body(usage: Usage | None) -> dict[str, int] | None:
    """Token counts as the protocol writes them; None where the expert counted none."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def error_message(body: bytes) -> str:
    """The server's own words, from any of the usual envelopes."""
    try:
        envelope: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _shown(body)
    inner = envelope.get("error", envelope) if isinstance(envelope, dict) else envelope
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or inner
    return inner[:_MAX_SHOWN] if isinstance(inner, str) else _shown(body)


def _status_in(chunk: Any) -> int | None:
    error = chunk.get("error") if isinstance(chunk, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _shown(body: bytes) -> str:
    return body[:_MAX_SHOWN].decode("utf-8", "replace") or "no details"
