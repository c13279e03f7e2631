"""SIGHUP: the configuration is read again, by whoever knows how."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable

Reload = Callable[[], Awaitable[None]]
"""Reads the configuration again. Tells by itself what came of it, and raises nothing."""


class Hangups:
    """Answers each signal with a reload; those that come during one make for one more."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload
        self._is_wanted = False
        self._reloading: asyncio.Task[None] | None = None

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, where a thread can be told of signals and there is such a one."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.come)

    def come(self) -> None:
        """On the event loop."""
        self._is_wanted = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._answer())

    async def ended(self) -> None:
        """Calls off what is under way."""
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)

    async def _answer(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            await self._reload()
