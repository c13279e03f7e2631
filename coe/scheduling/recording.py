"""The shipped fake: effects that only take down what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from coe.errors import CoeError
from coe.scheduling.effects import Effects
from coe.scheduling.terms import Ticket


class RecordingEffects(Effects):
    """Writes every effect down as a line of words, for tests that are tables."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.errors: dict[str, CoeError] = {}
        """Ticket id → why it was refused."""
        self.gone: set[str] = set()
        """Ids of tickets whose callers have gone without saying so: granting them fails."""

    def taken(self) -> list[str]:
        """What was written since this was last asked."""
        lines, self.lines = self.lines, []
        return lines

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        self.lines.append(f"load {expert_id} on {'+'.join(devices)}")

    def wake(self, expert_id: str, devices: Sequence[str]) -> None:
        self.lines.append(f"wake {expert_id} on {'+'.join(devices)}")

    def prefetch(self, expert_id: str, devices: Sequence[str]) -> None:
        self.lines.append(f"prefetch {expert_id} on {'+'.join(devices)}")

    def sleep(self, expert_id: str) -> None:
        self.lines.append(f"sleep {expert_id}")

    def evict(self, expert_id: str) -> None:
        self.lines.append(f"evict {expert_id}")

    def grant(self, ticket: Ticket) -> bool:
        if ticket.id in self.gone:
            self.lines.append(f"gone {ticket.id}")
            return False
        self.lines.append(f"grant {ticket.id}")
        return True

    def refuse(self, ticket: Ticket, error: CoeError) -> None:
        self.errors[ticket.id] = error
        self.lines.append(f"refuse {ticket.id}: {type(error).__name__}")
