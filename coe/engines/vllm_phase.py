"""Where a vLLM server of ours is in its life, and what such a server has to be able to do."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from coe.engines.base import EngineState


class Phase(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    AWAKE = "awake"
    FALLING_ASLEEP = "falling asleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"


STATES = {
    Phase.STARTING: EngineState.LOADING,
    Phase.WAKING: EngineState.LOADING,
    Phase.AWAKE: EngineState.READY,
    Phase.ASLEEP: EngineState.ASLEEP,
    Phase.FAILED: EngineState.FAILED,
}
"""How a phase is reported; all others count as stopped."""


class Server(Protocol):
    """One incarnation of a server, from its start to its end."""

    async def exited(self) -> str:
        """Returns when its process has ended, and how, in words."""
        ...

    async def is_healthy(self) -> bool: ...

    async def fall_asleep(self, timeout_s: float) -> float | None:
        """GiB still held; None where that is not measured. Raises `EngineError`."""
        ...

    async def wake(self, timeout_s: float) -> None:
        """Raises `EngineError`; it is good for nothing but `end` then."""
        ...

    async def end(self, grace_s: float) -> bool:
        """Whether all of it is gone. Idempotent."""
        ...

    def obituary(self, ending: str) -> str: ...
