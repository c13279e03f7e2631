"""What can be told of an answer on its way, for whoever waits for its first word."""

from __future__ import annotations

from collections.abc import Sequence


class Progress:
    """Hears how an answer comes about, until it begins. Returns at once; this one forgets it."""

    def waiting(self, expert_id: str, n_before: int) -> None:
        """It is not loaded, and so many requests wait for it already."""

    def asked(self, expert_ids: Sequence[str]) -> None:
        """All of them at the same time."""

    def answered(self, expert_id: str, n_answered: int, n_asked: int | None = None) -> None:
        """To its end. `n_asked` None: whether more are asked depends on the answers."""

    def failed(self, expert_id: str) -> None: ...

    def writing(self, expert_id: str) -> None:
        """It was asked for the answer itself, and has read the others'."""


UNTOLD = Progress()
