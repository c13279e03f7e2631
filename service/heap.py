"""The collector of garbage, told that most of what is there by the start stays to the end."""

from __future__ import annotations

import gc

_YOUNG = 10_000
"""Objects made and not yet freed at which the young ones are looked at. A request frees nearly all
of its own by counting references; the default of 700 looks at those of requests under way, again
and again, and takes them for old."""


def settle() -> None:
    """To be called once all is loaded. Weights, tables and modules are not looked at again: each
    full collection would otherwise hold up every request for as long as that takes.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, old)
