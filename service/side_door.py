"""A second app on a socket of its own, open for as long as the first one is served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.service.lifespan import accompanied
from coe.service.server import base_url, config_for

_CLOSING_S = 1
_LOOK_S = 0.005


class SideDoor:
    """An app with another beside it, which opens before the first is served and closes after its
    requests have ended, so that what keeps them can be looked at. Both share the event loop.
    """

    def __init__(
        self,
        app: ASGIApp,
        beside: ASGIApp,
        listener: socket.socket,
        on_ready: Callable[[str], None],
    ) -> None:
        """`listener`: where the one beside is reached. `on_ready` is told its base URL."""
        self._app = accompanied(app, self._open, self._close)
        self._listener = listener
        self._on_ready = on_ready
        self._server = _Unsignalled(config_for(beside, "off", _CLOSING_S))
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _open(self) -> None:
        self._serving = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(_LOOK_S)
        self._on_ready(base_url(self._listener))

    async def _close(self) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Unsignalled(uvicorn.Server):
    """Leaves the signals to the server beside it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
