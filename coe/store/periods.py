"""Days and months of UTC, which budgets go by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from coe.store.keys import Period


@dataclass(frozen=True, slots=True)
class Span:
    """One day, one month, or all of time."""

    label: str
    """`2026-03-01`, `2026-03` or `total`."""
    begin_s: float
    end_s: float | None
    """None: it never ends."""

    def covers(self, now_s: float) -> bool:
        return self.begin_s <= now_s and (self.end_s is None or now_s < self.end_s)


def span_of(period: Period, now_s: float) -> Span:
    """The span of this kind that holds a time, in seconds since the epoch."""
    if period == "total":
        return Span("total", float("-inf"), None)
    now = datetime.fromtimestamp(now_s, UTC)
    begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        end, label = begin + timedelta(days=1), f"{begin:%Y-%m-%d}"
    else:
        begin = begin.replace(day=1)
        # Any 28th plus four days lies in the next month.
        end, label = (begin.replace(day=28) + timedelta(days=4)).replace(day=1), f"{begin:%Y-%m}"
    return Span(label, begin.timestamp(), end.timestamp())
