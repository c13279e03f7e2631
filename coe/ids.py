"""Names for what has none: requests, decisions, queries."""

from __future__ import annotations

import os
from collections.abc import Iterator

_BYTES = 16
_AT_ONCE = 256


def _drawn() -> Iterator[str]:
    while True:
        # One call of the system for many: on some machines it costs more than all else here.
        drawn = os.urandom(_BYTES * _AT_ONCE).hex()
        for start in range(0, len(drawn), 2 * _BYTES):
            yield drawn[start : start + 2 * _BYTES]


_IDS = _drawn()


def _drop_drawn() -> None:
    global _IDS
    _IDS = _drawn()


os.register_at_fork(after_in_child=_drop_drawn)  # or parent and child would draw the same


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess, and that are no other's."""
    return next(_IDS)
