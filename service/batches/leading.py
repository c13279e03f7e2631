"""Which of several processes works on the batches: whoever has the lock of their folder.

The others take batches on and write down what is wanted; the one that leads looks for it. When it
ends, however it does, another one goes on with what it has left.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from coe.errors import CoeError

_LOG = logging.getLogger("coe.service")

LOOK_S = 0.5
"""How soon what another process has taken on is begun."""
_LOCK = ".lock"
Step = Callable[[], Awaitable[None]]


class Leading:
    """One process's part in it."""

    def __init__(self, folder: Path, take_over: Step, look: Step, every_s: float = LOOK_S) -> None:
        """`take_over`: goes on with what is not over. `look`: begins what has come since."""
        self._file = folder / _LOCK
        self._take_over = take_over
        self._look = look
        self._every_s = every_s
        self._soon = asyncio.Event()
        self._fd = -1

    async def run(self) -> None:
        """Waits until nobody else leads, and then does, until it is cancelled."""
        is_leading = False
        while True:
            try:
                if not is_leading:
                    await self._lock()
                    await self._take_over()
                    is_leading = True
                await self._look()
            except (OSError, CoeError) as error:
                _LOG.error("batches cannot be looked for: %s", error)
                if not is_leading:
                    self.give_up()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), self._every_s)
            self._soon.clear()

    def look_soon(self) -> None:
        """There is something to be found."""
        self._soon.set()

    def give_up(self) -> None:
        """Lets another one lead. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def _lock(self) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _is_got(fd):
                await asyncio.sleep(self._every_s)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd


def _is_got(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
