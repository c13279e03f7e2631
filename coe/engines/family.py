"""Everything that descends from one start: found by a token in the environment, and killed.

A token is random and inherited, so that it finds the workers that a server forked, also after
the server is gone, and never a process of anybody else: process ids alone are reused. A process
that writes over its environment hides from it; `process.child_environment` asks vLLM not to.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

TOKEN_VARIABLE = "COE_EXPERT_TOKEN"
_PROC = Path("/proc")
_POLL_S = 0.02


def new_token() -> str:
    return secrets.token_hex(16)


def family(token: str) -> set[int]:
    """The living processes with that token; empty where there is no `/proc` to look in."""
    needle = f"{TOKEN_VARIABLE}={token}".encode()
    return {pid for pid, environ in _environments() if needle in environ}


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    try:
        pids = [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return
    for pid in pids:
        try:
            # A zombie's is empty, another user's is closed to us.
            environ = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        yield pid, environ.split(b"\0")


async def kill_family(token: str, patience_s: float) -> bool:
    """Whether nobody is left of it after so long. SIGKILL, again and again: forks race with it."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + patience_s
    while pids := family(token):
        for pid in pids:
            _kill(pid)
        if clock() >= until_s:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def signal_group(pgid: int, sign: signal.Signals) -> None:
    """To every process of a group, if there is any left."""
    try:
        os.killpg(pgid, sign)
    except (ProcessLookupError, PermissionError):
        # macOS answers with EPERM for a group of zombies.
        return


def resident_gib(pids: set[int]) -> float | None:
    """Host memory of these processes, pages they share counted once each; None: cannot tell."""
    total = 0.0
    known = False
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
                known = True
    return total / 1024**2 if known else None
