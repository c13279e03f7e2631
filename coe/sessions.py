"""Who answered a conversation last: what session affinity goes by."""

from __future__ import annotations

from collections import OrderedDict

CAPACITY = 10_000


class Sessions:
    """The last expert of each session, of the sessions that were heard of last.

    In memory and bounded: a forgotten session costs one cold cache.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._last: OrderedDict[str, str] = OrderedDict()

    def last_expert(self, session: str | None) -> str | None:
        """None for a session that is new, forgotten or not named."""
        return None if session is None else self._last.get(session)

    def answered(self, session: str | None, expert_id: str) -> None:
        """Keeps the expert as the session's last; without a session nothing."""
        if session is None:
            return
        self._last[session] = expert_id
        self._last.move_to_end(session)
        if len(self._last) > self._capacity:
            self._last.popitem(last=False)

    def __len__(self) -> int:
        return len(self._last)
