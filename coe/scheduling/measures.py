"""Running measurements: a mean of recent values, and a rate of recent events."""

from __future__ import annotations

import math


class Mean:
    """An exponentially weighted mean that starts from a guess.

    The guess counts as one value and all of the first few count alike, so that a wrong guess
    is soon forgotten.
    """

    __slots__ = ("_n_values", "_share", "total", "value")

    def __init__(self, guess: float, share: float = 0.3) -> None:
        """`share`: the least weight of the newest value."""
        self.value = guess
        self._share = share
        self._n_values = 1
        self.total = 0.0
        """The sum of all values but the guess."""

    def add(self, value: float) -> None:
        self._n_values += 1
        self.total += value
        self.value += max(self._share, 1.0 / self._n_values) * (value - self.value)


class Rate:
    """Events per second, forgotten with a time constant."""

    __slots__ = ("_at_s", "_per_s", "_window_s")

    def __init__(self, window_s: float = 120.0) -> None:
        self._window_s = window_s
        self._per_s = 0.0
        self._at_s = 0.0

    def add(self, now: float) -> None:
        self._per_s = self.per_s(now) + 1.0 / self._window_s
        self._at_s = now

    def per_s(self, now: float) -> float:
        return self._per_s * math.exp((self._at_s - now) / self._window_s)
