"""Runs the gateway: uvicorn on uvloop and httptools, quiet unless something is wrong.

The first signal lets requests finish in their time, and until they have, refuses new ones with 503:
a load balancer that still sends some here is told to ask elsewhere. The second signal ends them at
once. Whoever is cut off is told so, in an envelope or in the last event of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coe.errors import ConfigError
from coe.service.accepting import N_AT_ONCE, waiting_at
from coe.service.admission import INTAKE, LET_IN
from coe.service.chunks import error_event
from coe.service.connection import Connection
from coe.service.errors import SHUTTING_DOWN
from coe.service.reply import send_json

App = ASGIApp
"""Whatever can be served."""
OnStopping = Callable[[int, int], None]
"""Told how many requests still run and how many seconds they have."""

_BACKLOG = 2048
_FAREWELL_S = 1.0
"""How long requests that were cut off have to say so."""
_ELSEWHERE = ((b"retry-after", b"1"), (b"connection", b"close"))
_UVICORN = logging.getLogger("uvicorn.error")
# What uvicorn says of responses that we leave without their end, and of requests that it ends
# when we told it to. Both have been told already, with their cause.
_EXPECTED = (
    "ASGI callable returned without completing response.",
    "Cancel %s running task(s), timeout graceful shutdown exceeded",
)


def bind(host: str, port: int, *, is_spread: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `ConfigError` if it cannot be had.

    `is_spread`: one of several, over which the kernel spreads what comes to the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_spread:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}); choose another host or port"
        ) from None
    return listener


def server_for(
    app: ASGIApp,
    *,
    shutdown_timeout_s: int = 10,
    on_ready: Callable[[], None] | None = None,
    on_stopping: OnStopping | None = None,
) -> uvicorn.Server:
    """A server that is not running yet: its own `run(sockets=[bind(host, port)])` starts it.

    `on_ready` is called once connections are accepted. Requests that are still running
    `shutdown_timeout_s` after a signal, or at a second one, are cancelled.
    """
    requests = _Requests(app)
    config = config_for(requests, "on", shutdown_timeout_s)
    stopping = None if on_stopping is None else lambda n: on_stopping(n, shutdown_timeout_s)
    return _Server(config, requests, on_ready, stopping)


def config_for(
    app: ASGIApp, lifespan: Literal["on", "off"], shutdown_timeout_s: int
) -> uvicorn.Config:
    """How uvicorn is to serve anything of ours."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # Longer than the clients' own, so that it is never us who closes under a new request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )


def run(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    shutdown_timeout_s: int = 10,
    on_ready: Callable[[str], None] | None = None,
    on_stopping: OnStopping | None = None,
) -> None:
    """Serves until a signal comes, which is raised again at the end. Prints nothing.

    `on_ready` is told the base URL once connections are accepted. Raises `ConfigError` if the
    address cannot be had.
    """
    with bind(host, port) as listener:
        url = base_url(listener)
        run_on(
            listener,
            app,
            shutdown_timeout_s=shutdown_timeout_s,
            on_ready=None if on_ready is None else lambda: on_ready(url),
            on_stopping=on_stopping,
        )


def run_on(
    listener: socket.socket,
    app: ASGIApp,
    *,
    shutdown_timeout_s: int = 10,
    on_ready: Callable[[], None] | None = None,
    on_stopping: OnStopping | None = None,
) -> None:
    """As `run`, where somebody listens already: other processes may do so on the same socket."""
    server = server_for(
        app, shutdown_timeout_s=shutdown_timeout_s, on_ready=on_ready, on_stopping=on_stopping
    )
    server.run(sockets=[listener])


def base_url(listener: socket.socket) -> str:
    """Where a listening socket is reached, as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Requests:
    """The app, with a list of the requests that are in it. Ends those that are cancelled.

    Only the end of the server cancels a request: a client that leaves does not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.is_closed = False
        """Whether new requests are refused."""
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def ended(self, timeout_s: float) -> None:
        """Returns once none is left, or the time is up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.is_closed:
            if LET_IN in scope:
                scope["state"][INTAKE].end()
            await send_json(send, SHUTTING_DOWN.envelope, SHUTTING_DOWN.status, _ELSEWHERE)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        is_streaming = False

        async def watched_send(message: Message) -> None:
            nonlocal is_streaming
            is_streaming = message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except asyncio.CancelledError:
            # A traceback for each request would say nothing that the signal has not said.
            if is_streaming:
                await _tell_end(send)
        finally:
            self._tasks.discard(task)


async def _tell_end(send: Send) -> None:
    """The last event of a stream that is cut off; a client that does not read goes without."""
    event = error_event(SHUTTING_DOWN.envelope)
    with suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(_FAREWELL_S):
            await send({"type": "http.response.body", "body": event, "more_body": True})


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        requests: _Requests,
        on_ready: Callable[[], None] | None,
        on_stopping: Callable[[int], None] | None,
    ) -> None:
        super().__init__(config)
        self._requests = requests
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._loop: asyncio.AbstractEventLoop | None = None
        self._copies: list[socket.socket] = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        _UVICORN.addFilter(_is_unexpected)
        try:
            await super().serve(sockets)
        finally:
            _UVICORN.removeFilter(_is_unexpected)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        listeners = sockets or []
        self._copies = [one.dup() for one in listeners for _ in range(N_AT_ONCE - 1)]
        await super().startup([*listeners, *self._copies] or None)
        if (intake := self.lifespan.state.get(INTAKE)) is not None:
            intake.stands_before(lambda: sum(map(waiting_at, listeners)))
        if self.started and self._on_ready is not None:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_stopping is not None:
            self._on_stopping(len(self._requests))
        await self._requests.ended(self.config.timeout_graceful_shutdown or 0)
        if len(self._requests):
            # Their time is up: uvicorn has none left to give.
            self.config.timeout_graceful_shutdown = 0
        await super().shutdown([*(sockets or []), *self._copies])
        # Whoever was cut off may have yet to say so, and the process may end with this.
        await self._requests.ended(_FAREWELL_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._requests.is_closed = True
        if self.should_exit and self._loop is not None:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._requests.cancel)
        super().handle_exit(sig, frame)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return record.msg not in _EXPECTED
