"""When an expert that fails is left alone, and when it is tried again.

Pure: outcomes and the time in, decisions out. No clock and no task; `breaking` has those.

1. Closed: everybody passes. Once within `window_s` `in_a_row` failed one after the other, or
   `failure_share` of at least `least_calls`, it opens.
2. Open: nobody passes for `open_s`, twice as long after each trial that fails, up to `longest_s`.
3. Half open: one passes at a time, as the trial; its first sign of life closes, its failure opens,
   and if it leaves without either the next one is the trial.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from coe.reliability import BreakerRules

_BUCKETS = 10
_MOMENT_S = 0.02
"""What fails at once, as when this process was held up, is one failure of those in a row."""


class BreakerState(Enum):
    """What an arrival can expect."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let through."""

    epoch: int
    """Which stretch between two transitions it began in: of earlier ones nothing is learnt."""
    is_trial: bool = False


@dataclass(slots=True)
class _Bucket:
    """What ended within a tenth of the window."""

    since_s: float
    n_calls: int = 0
    n_failed: int = 0


class Breaker:
    """Counts outcomes and decides. Every call that passed ends with exactly one `on_end`."""

    def __init__(self, rules: BreakerRules) -> None:
        self.rules = rules
        self.n_calls = 0
        """Within the window; while open, those that opened it."""
        self.n_failed = 0
        self.n_in_a_row = 0
        """Moments at which something failed, since the last answer."""
        self._failed_s = -math.inf
        self.n_openings = 0
        self._buckets: deque[_Bucket] = deque()
        self._epoch = 0
        self._state = BreakerState.CLOSED
        self._open_s = rules.open_s
        self._retry_at_s = 0.0
        self._has_trial = False

    def state(self, now: float) -> BreakerState:
        if self._state is BreakerState.OPEN and now >= self._retry_at_s:
            return BreakerState.HALF_OPEN
        return self._state

    def wait_s(self, now: float) -> float:
        """Until an arrival may pass; while a trial is under way, the shortest it is worth."""
        return max(self._retry_at_s - now, self.rules.open_s if self._has_trial else 0.0)

    def on_arrival(self, now: float) -> Call | None:
        """None: it must not pass."""
        match self.state(now):
            case BreakerState.CLOSED:
                return Call(self._epoch)
            case BreakerState.HALF_OPEN if not self._has_trial:
                self._state = BreakerState.HALF_OPEN
                self._has_trial = True
                return Call(self._epoch, is_trial=True)
            case _:
                return None

    def on_life(self, call: Call) -> Call:
        """Some of the answer came. Gives the call to end with: what was a trial is ordinary now."""
        if not call.is_trial or call.epoch != self._epoch:
            return call
        self.forget()
        return Call(self._epoch)

    def forget(self) -> None:
        """Closes, and learns nothing from calls that are under way."""
        self._turn(BreakerState.CLOSED)
        self._open_s = self.rules.open_s
        self._retry_at_s = 0.0
        self._buckets.clear()
        self.n_calls = self.n_failed = self.n_in_a_row = 0

    def on_end(self, now: float, call: Call, ok: bool | None) -> None:
        """`ok` None: it ended without telling anything of the expert."""
        if call.epoch != self._epoch:
            return
        if call.is_trial:
            if ok:
                self.on_end(now, self.on_life(call), ok)
            elif ok is None:
                self._has_trial = False
            else:
                self._open_s = min(self.rules.longest_s, 2 * self._open_s)
                self._open(now)
        elif ok is not None:
            self._count(now, ok)
            if self._is_failing():
                self._open(now)

    def _open(self, now: float) -> None:
        self._turn(BreakerState.OPEN)
        self._retry_at_s = now + self._open_s
        self.n_openings += 1

    def _turn(self, state: BreakerState) -> None:
        self._state = state
        self._epoch += 1
        self._has_trial = False

    def _is_failing(self) -> bool:
        # Of those in a row, too, only the ones within the window count.
        if min(self.n_in_a_row, self.n_failed) >= self.rules.in_a_row:
            return True
        is_enough = self.n_calls >= self.rules.least_calls
        return is_enough and self.n_failed >= self.rules.failure_share * self.n_calls

    def _count(self, now: float, ok: bool) -> None:
        """Into buckets of a tenth of the window: what is remembered does not grow with the load."""
        if ok:
            self.n_in_a_row = 0
        elif now >= self._failed_s + _MOMENT_S:
            self.n_in_a_row += 1
            self._failed_s = now
        width_s = self.rules.window_s / _BUCKETS
        if not self._buckets or now >= self._buckets[-1].since_s + width_s:
            self._buckets.append(_Bucket(now))
        newest = self._buckets[-1]
        newest.n_calls += 1
        newest.n_failed += not ok
        self.n_calls += 1
        self.n_failed += not ok
        while self._buckets[0].since_s <= now - self.rules.window_s:
            oldest = self._buckets.popleft()
            self.n_calls -= oldest.n_calls
            self.n_failed -= oldest.n_failed
