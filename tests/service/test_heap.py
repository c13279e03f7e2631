"""The collector leaves alone what was there at the start."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: what is frozen stays so to its end.
_SETTLED = """
import gc
from coe.service.heap import settle
settle()
print(gc.get_freeze_count() > 1000, gc.get_threshold()[0], gc.isenabled())
kept = []
kept.append(kept)
del kept
print(gc.collect())
"""


def test_settled_heap_is_frozen_and_what_comes_later_is_collected() -> None:
    command = [sys.executable, "-c", _SETTLED]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said[:3] == ["True", "10000", "True"]
    assert int(said[3]) >= 1
