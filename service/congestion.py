"""Whether one event loop has more to do than it can, and how many more it takes on meanwhile.

What is looked at is the work that stands in line for the loop, in seconds of its own processor
time: not how late it is, for on a machine that is busy with something else a loop is late for
nothing that it took on. A line that is soon gone is none, as CoDel has it: many may come at once,
and are served one after the other. One that stands is made short and kept so, by letting in
between two looks only as many as make a short line. A loop that has too much to do looks once in
each of its rounds: what it lets in is what it gets done, whatever each costs and however fast it
is today.
"""

from __future__ import annotations

import math

MANY = 256
"""So many are let in, one after the other, before the line is one that stands."""
FEW = 32
"""So many may be under way whatever the line: it is not they who make it."""
_LONGEST_WAIT_S = 0.05
"""Whoever waited for longer in a line that stands is sent away: others have come since."""
_SHORT_S = 0.0025
"""What is kept of a line that stood."""
_CALM_S = 1.0
"""When nobody had to be refused for so long, there is no line any more."""
_UP, _DOWN = 1.25, 0.5
"""By how much what is let in may change from one look to the next."""
_SMOOTHING = 0.2
"""Weight of the newest of the measured costs."""


class Congestion:
    """Decides it, from what was measured and the time. Pure."""

    def __init__(self, longest_s: float) -> None:
        """`longest_s`: work in line that is borne for any time."""
        self._longest_s = longest_s
        self._line_s = 0.0
        """Work that the loop has begun to look at."""
        self._is_long = False
        self._n_waiting = 0
        self._n_in_line = 0
        """Let in since the line was last as it should be."""
        self._n_let_in = 0
        """Let in since the last look."""
        self._room = math.inf
        """How many are let in between two looks."""
        self._each_s = 0.001
        """What one costs, as lately measured."""
        self._has_refused = False
        """Since the last look."""
        self._refused_s = -math.inf

    @property
    def stands(self) -> bool:
        """Whether there is a line, so that not everybody is let in."""
        return self._room != math.inf

    @property
    def look_s(self) -> float:
        """How long until the next look."""
        return 0.002 if self.stands else 0.02

    def on_look(self, now: float, late_s: float, worked_s: float, n_waiting: int) -> None:
        """A look that came `late_s` after its time, the loop having worked so long since the last
        one. What it was late without working, it waited for the machine. `n_waiting` stand before
        the loop, which has not seen them.
        """
        if self._n_let_in:
            self._each_s += _SMOOTHING * (worked_s / self._n_let_in - self._each_s)
        self._line_s = min(late_s, worked_s)
        self._n_waiting = n_waiting
        self._is_long = self._line_s + n_waiting * self._each_s > self._longest_s
        if not self._is_long:
            self._n_in_line = 0
        if self._has_refused:
            self._refused_s = now
        if self.stands:
            self._adapt()
            if now - self._refused_s > _CALM_S:
                self._room = math.inf
        self._n_let_in, self._has_refused = 0, False

    def lets_in(self, n_in_flight: int) -> bool:
        """Whether one more than these is let in; it is counted if so."""
        n = min(self._n_in_line, n_in_flight) + self._n_waiting
        if self._is_long and n >= MANY and not self.stands:
            self._room = _SHORT_S / self._each_s
        if n_in_flight >= FEW and self._n_let_in >= self._room:
            self._has_refused = True
            return False
        self._n_let_in += 1
        self._n_in_line += 1
        return True

    def keeps(self, n_in_flight: int, waited_s: float) -> bool:
        """Whether one of these that was let in so long ago, and not begun since, is served."""
        return n_in_flight <= FEW or not self.stands or waited_s <= _LONGEST_WAIT_S

    def _adapt(self) -> None:
        """Towards as many as make a short line: what is let in makes the next one."""
        factor = _SHORT_S / self._line_s if self._line_s else _UP
        if factor < 1.0 or self._has_refused:
            self._room = max(1.0, self._room * min(_UP, max(_DOWN, factor)))
