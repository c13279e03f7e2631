"""Runs one check within limits, in a process of its own; see `checking`.

That it passed is told by a word that only this file knows: code that is checked may end the process
as it likes. The interpreter has no site packages, so only the standard library is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

_WRONG = 1
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_MIB = 1 << 20


def main() -> None:
    given = json.load(sys.stdin)
    passed = given.pop("passed").encode()
    said = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _leave_network()
    _limit(given)
    names = {name: given[name] for name in ("completion", "answer", "code")}
    names["__name__"] = "check"
    try:
        exec(compile(given["source"], "check", "exec"), names)
    except BaseException:  # noqa: BLE001 - whatever is raised means wrong
        os._exit(_WRONG)
    os.write(said, passed)
    os._exit(0)  # neither threads nor exit handlers of what was checked have a say


def _leave_network() -> None:
    """Into a network of its own, which reaches nothing. Where the system forbids it, it stays."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(_NEW_USER | _NEW_NET)
    except (OSError, AttributeError):
        return


def _limit(given: dict[str, float]) -> None:
    seconds = max(1, round(given["time_s"]))
    memory = int(given["memory_mib"]) * _MIB
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, int(given["file_mib"]) * _MIB),
        (resource.RLIMIT_NOFILE, int(given["n_files"])),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        try:
            # One more where it is final: of time, the first end is one that can be told.
            resource.setrlimit(limit, (most, most + 1))
        except (OSError, ValueError):
            # macOS has no such limit of memory; the others hold.
            continue


main()
