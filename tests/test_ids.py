"""Names that are no other's."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from coe.ids import new_id


def test_ids_are_hexadecimal_and_all_different() -> None:
    ids = [new_id() for _ in range(1000)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in ids)
    assert len(set(ids)) == 1000


_FORK = """
import os
from coe.ids import new_id
new_id()
if os.fork() == 0:
    print(new_id(), flush=True)
    os._exit(0)
os.wait()
print(new_id())
"""


def test_ids_of_a_forked_child_are_its_own() -> None:
    said = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, check=True)
    theirs, ours = said.stdout.split()
    assert theirs != ours


def test_ids_are_drawn_by_several_threads_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        drawn = [*threads.map(lambda _: [new_id() for _ in range(3000)], range(8))]
    assert len({id_ for ids in drawn for id_ in ids}) == 8 * 3000
