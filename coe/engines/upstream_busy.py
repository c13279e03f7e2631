"""Failures that say when to come back, and where servers say it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite

from coe.errors import CoeError, UpstreamError

_TOO_MANY_REQUESTS = 429


class UpstreamBusy(UpstreamError):
    """An expert that has no time now, and says when it will."""

    def __init__(
        self, expert_id: str, message: str, status: int | None, retry_after_s: float
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            expert_id, f"{message}; it asks to be left alone for {retry_after_s:.3g} s", status
        )


def retry_after_of(error: CoeError) -> float | None:
    """Seconds that whoever failed asks to be left alone; None where it does not say."""
    told = getattr(error, "retry_after_s", None)
    return float(told) if isinstance(told, int | float) else None


def busy_until(status: int | None, headers: Mapping[str, str]) -> float | None:
    """Seconds after which a refusal of this status may be over; None where it is none of time."""
    if status is None or (status != _TOO_MANY_REQUESTS and status < 500):
        return None
    return read_retry_after(headers)


def read_retry_after(headers: Mapping[str, str], wall_s: float | None = None) -> float | None:
    """Seconds from a `Retry-After` header, a number or a date; None without one that is sound.

    `wall_s` is the Unix time to reckon dates from, None being now. The header's name is looked
    up as the mapping does it, and in lower case. OpenAI's `retry-after-ms` goes first.
    """
    if (told_ms := _number(_header(headers, "retry-after-ms"))) is not None:
        return told_ms / 1000
    told = _header(headers, "Retry-After")
    if told is None or (seconds := _number(told)) is not None:
        return None if told is None else seconds
    try:
        date = parsedate_to_datetime(told)
    except ValueError:
        return None
    # A date without a zone is taken for what the standard says it must be.
    at_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return max(0.0, at_s - (time.time() if wall_s is None else wall_s))


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name) or headers.get(name.lower())


def _number(told: str | None) -> float | None:
    try:
        seconds = float(told or "")
    except ValueError:
        return None
    return seconds if isfinite(seconds) and seconds >= 0 else None
