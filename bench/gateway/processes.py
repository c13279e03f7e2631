"""The processes of a run: each in a group of its own, on one core, measured, and always ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from coe.engines import leash

GATEWAY_CORE, OTHER_CORE = 1, 0
"""The gateway has a core to itself; what asks and what answers share the other."""
_STOP_S = 10.0
_SHOWN_CHARS = 1000


class Ended(Exception):
    """A process ended that should have gone on."""


def can_pin() -> bool:
    """Whether this machine lets two cores be told apart."""
    return shutil.which("taskset") is not None and len(os.sched_getaffinity(0)) > 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running process and what it started. Times are on the monotonic clock."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path, started_s: float) -> None:
        self.started_s = started_s
        self._child = child
        self._process = psutil.Process(child.pid)
        self._log = log

    def cpu_s(self) -> float:
        """User and system time of the whole tree, ended children included."""
        times = [process.cpu_times() for process in self._tree()]
        own = times[0]
        reaped = own.children_user + own.children_system
        return float(sum(t.user + t.system for t in times) + reaped)

    def rss_mib(self) -> float:
        """Of the whole tree; pages that processes share count in each."""
        return float(sum(process.memory_info().rss for process in self._tree())) / 2**20

    def check(self) -> None:
        """Raises `Ended`, with its last words."""
        if self._child.poll() is None:
            return
        said = self._log.read_text(errors="replace")[-_SHOWN_CHARS:]
        raise Ended(f"it ended with {self._child.returncode}: {said}")

    def _tree(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


@contextmanager
def serving(
    command: Sequence[str], folder: Path, core: int, extra: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Runs the command in `folder` until the block ends, in an environment without secrets.

    Should this process die, the command's does, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8", **(extra or {})}
    tied = [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid())]
    pinned = ["taskset", "-c", str(core)] if can_pin() else []
    log = folder / "log"
    with log.open("wb") as out:
        started_s = time.monotonic()
        child = subprocess.Popen(
            [*tied, *pinned, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(child, log, started_s)
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """The whole group: first asked, then made to."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_S)
    child.wait()
