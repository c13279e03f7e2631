"""Effects on running engines: what a scheduler asks for becomes a task."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from coe.errors import CoeError
from coe.scheduling.terms import Ticket


class Doer(Protocol):
    """Whoever has the engines and the callers that wait."""

    def spawn(self, work: Awaitable[None]) -> object: ...
    async def bring(self, expert_id: str, devices: Sequence[str]) -> None: ...
    async def put_to_sleep(self, expert_id: str) -> None: ...
    async def send_away(self, expert_id: str) -> None: ...
    def granted(self, ticket: Ticket) -> bool: ...
    def refused(self, ticket: Ticket, error: CoeError) -> None: ...


class EngineEffects:
    """What a scheduler asks for, as tasks of the dispatcher: every method returns at once."""

    def __init__(self, does: Doer) -> None:
        self._does = does

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        self._does.spawn(self._does.bring(expert_id, devices))

    wake = load
    prefetch = load

    def sleep(self, expert_id: str) -> None:
        self._does.spawn(self._does.put_to_sleep(expert_id))

    def evict(self, expert_id: str) -> None:
        self._does.spawn(self._does.send_away(expert_id))

    def grant(self, ticket: Ticket) -> bool:
        return self._does.granted(ticket)

    def refuse(self, ticket: Ticket, error: CoeError) -> None:
        self._does.refused(ticket, error)
