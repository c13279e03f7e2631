"""Names for what has none: requests, decisions, queries."""

from __future__ import annotations

import os

_BYTES = 16
_AT_ONCE = 256
_DRAWN: list[str] = []


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess, and that are no other's. For any thread."""
    try:
        return _DRAWN.pop()
    except IndexError:
        # One call of the system for many: on some machines it costs more than all else here.
        drawn = os.urandom(_BYTES * _AT_ONCE).hex()
        first, *others = (drawn[i : i + 2 * _BYTES] for i in range(0, len(drawn), 2 * _BYTES))
        _DRAWN.extend(others)
        return first


os.register_at_fork(after_in_child=_DRAWN.clear)  # or parent and child would draw the same
