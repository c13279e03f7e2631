"""Running measurements: a mean of recent values, and a rate of recent events."""

from __future__ import annotations

import math


class Mean:
    """An exponentially weighted mean that starts from a guess."""

    __slots__ = ("_share", "value")

    def __init__(self, guess: float, share: float = 0.3) -> None:
        """`share`: the weight of the newest value."""
        self.value = guess
        self._share = share

    def add(self, value: float) -> None:
        self.value += self._share * (value - self.value)


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
