"""What stands in an expert's place once it has been removed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coe.engines.base import EngineState
from coe.errors import ExpertRemoved
from coe.types import Delta, GenerationRequest


class RemovedEngine:
    """Tells whoever was on the way to the expert that it has gone, so that another is asked."""

    state = EngineState.STOPPED

    def __init__(self, expert_id: str) -> None:
        self.expert_id = expert_id

    async def ensure_ready(self, timeout_s: float) -> None:
        raise ExpertRemoved(self.expert_id)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        nothing: tuple[Delta, ...] = ()
        for delta in nothing:
            yield delta
        raise ExpertRemoved(self.expert_id)

    async def stop(self, timeout_s: float) -> None:
        return
