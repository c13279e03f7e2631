"""SIGHUP: the configuration is read again, by whoever knows how."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from coe.service.lifespan import accompanied

Reload = Callable[[], Awaitable[None]]
"""Reads the configuration again. Tells by itself what came of it, and raises nothing."""


class Hangups:
    """An app whose process answers each SIGHUP with a reload for as long as it is served; signals
    that come during one make for one more. Served off the main thread it hears none.
    """

    def __init__(self, app: ASGIApp, reload: Reload) -> None:
        self._app = accompanied(app, self._listen, self._end)
        self._reload = reload
        self._is_wanted = False
        self._reloading: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def hang_up(self) -> None:
        """What the signal does. On the event loop."""
        self._is_wanted = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._answer())

    async def _listen(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.hang_up)

    async def _answer(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            await self._reload()

    async def _end(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
