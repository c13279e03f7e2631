"""What only some engines can do besides serving, and a dispatcher makes use of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can leave the device and keep its weights in host memory.

    `ensure_ready` wakes it.
    """

    async def sleep(self, timeout_s: float) -> float | None:
        """GiB found still held on each device; None where that is not measured."""
        ...


@runtime_checkable
class Mortal(Protocol):
    """An engine whose expert may die by itself, and that tells of it."""

    def on_death(self, tell: Callable[[], None]) -> None:
        """`tell` is called on the event loop, once for each death after a start."""
        ...


@runtime_checkable
class Placed(Protocol):
    """An engine that can be started on devices chosen for it."""

    def place(self, devices: Sequence[str]) -> None:
        """Where the next start is to be."""
        ...
