"""Pretended device memory that several fake servers share and can run out of."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_SLACK_GIB = 1e-6


class OutOfDeviceMemory(Exception):
    """More is asked for than is free."""


class Device(Protocol):
    """One device's ledger: who holds how much."""

    def hold(self, owner: str, gib: float) -> None:
        """From now on `owner` holds so much. Raises `OutOfDeviceMemory`; nothing changes then."""
        ...


class MemoryDevice:
    """A ledger within this process."""

    def __init__(self, capacity_gib: float) -> None:
        self.capacity_gib = capacity_gib
        self.held: dict[str, float] = {}
        self.n_refused = 0
        """How often more was asked for than was free."""

    def hold(self, owner: str, gib: float) -> None:
        try:
            _hold(self.held, owner, gib, self.capacity_gib)
        except OutOfDeviceMemory:
            self.n_refused += 1
            raise

    @property
    def total_gib(self) -> float:
        return sum(self.held.values())


class FileDevice:
    """A ledger in a file, shared by processes. The dead hold nothing. Owners are process ids."""

    def __init__(self, path: Path, capacity_gib: float) -> None:
        self._path = path
        self._capacity_gib = capacity_gib

    def hold(self, owner: str, gib: float) -> None:
        with self._open() as held:
            _hold(held, owner, gib, self._capacity_gib)

    @contextmanager
    def _open(self) -> Iterator[dict[str, float]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            held = {
                pid: gib
                for pid, gib in (json.loads(text) if text else {}).items()
                if _is_alive(int(pid))
            }
            yield held
            file.seek(0)
            file.truncate()
            json.dump(held, file)


def _hold(held: dict[str, float], owner: str, gib: float, capacity_gib: float) -> None:
    others = sum(each for name, each in held.items() if name != owner)
    if gib > held.get(owner, 0.0) and others + gib > capacity_gib + _SLACK_GIB:
        raise OutOfDeviceMemory(
            f"CUDA out of memory. Tried to allocate {gib - held.get(owner, 0.0):.2f} GiB. GPU 0 "
            f"has a total capacity of {capacity_gib:.2f} GiB of which "
            f"{max(0.0, capacity_gib - others - held.get(owner, 0.0)):.2f} GiB is free."
        )
    held[owner] = gib
    if gib <= 0.0:
        del held[owner]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Dead, and not yet reaped: what it held went when it died, whoever dawdles over the body."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # The name of the program stands before this in brackets, and may hold any.
    return text.rpartition(")")[2].split()[0] in "ZX"
