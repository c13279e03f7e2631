"""One line of JSON for every request, and for whatever else is logged beside it.

Who asked what is not in it: no prompt unless the operator wants it, no key, and of addresses
neither the client's nor an expert's.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TextIO

from coe.service.notes import RequestNotes
from coe.service.reply import to_json

LOGGER = "coe.requests"
_FIELDS = "coe_fields"
_UNTOLD = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines all the time."""


class JsonLines(logging.Formatter):
    """A record as one JSON object: `time`, `level`, `logger`, `message`, and its own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return to_json(line).decode("utf-8")


class RequestLog:
    """Tells the logger `coe.requests` of every request that is over."""

    def __init__(self, keeps_prompts: bool = False) -> None:
        self.keeps_prompts = keeps_prompts
        self._logger = logging.getLogger(LOGGER)

    def add(
        self,
        notes: RequestNotes,
        request_id: str,
        outcome: tuple[int, str | None],
        seconds: float,
        first_s: float | None,
    ) -> None:
        """`outcome`: the status, and what kind of failure it was."""
        if notes.route in _UNTOLD or not self._logger.isEnabledFor(logging.INFO):
            return
        fields = _fields(notes, request_id, outcome, seconds, first_s)
        self._logger.info("request", extra={_FIELDS: fields})


def write_json_lines(stream: TextIO, level: int = logging.INFO) -> logging.Handler:
    """Has all that `coe` logs written to `stream`, a line of JSON each; remove it to end that."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("coe")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


def _fields(
    notes: RequestNotes,
    request_id: str,
    outcome: tuple[int, str | None],
    seconds: float,
    first_s: float | None,
) -> dict[str, object]:
    status, failure = outcome
    fields: dict[str, object] = {
        "request_id": request_id,
        "route": notes.route,
        "status": status,
        "duration_ms": _ms(seconds),
    }
    if notes.decision is not None:
        experts = notes.answered or notes.decision.experts
        fields["decision_id"] = notes.decision_id
        fields["router"] = notes.decision.router
        fields["expert"] = experts[0] if len(experts) == 1 else list(experts)
        fields["routing_ms"] = _ms(notes.routing_s or 0.0)
        fields["upstream_ms"] = _ms(notes.upstream.seconds)
    if notes.cache is not None:
        fields["cache"] = notes.cache
    if first_s is not None:
        fields["first_byte_ms"] = _ms(first_s)
    if notes.usage is not None:
        fields["prompt_tokens"] = notes.usage.prompt_tokens
        fields["completion_tokens"] = notes.usage.completion_tokens
    if failure is not None:
        fields["failure"] = failure
    if notes.prompt is not None:
        fields["prompt"] = notes.prompt
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)
