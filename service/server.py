"""Runs the gateway: uvicorn on uvloop and httptools, quiet unless something is wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from coe.errors import ConfigError

_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `ConfigError` if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
    access_log: bool = False,
    shutdown_timeout_s: int = 10,
    on_ready: Callable[[], None] | None = None,
) -> uvicorn.Server:
    """A server that is not running yet: its own `run(sockets=[bind(host, port)])` starts it.

    `on_ready` is called once connections are accepted. Requests that are still running
    `shutdown_timeout_s` after a signal are cancelled.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        # Longer than the clients' own, so that it is never us who closes under a new request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown_timeout_s,
    )
    return _Server(config, on_ready)


def run(
    app: ASGIApp,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    access_log: bool = False,
    shutdown_timeout_s: int = 10,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves until a signal comes, which is raised again at the end. Prints nothing.

    `on_ready` is told the base URL once connections are accepted. Raises `ConfigError` if the
    address cannot be had.
    """
    with bind(host, port) as listener:
        url = base_url(listener)
        server = server_for(
            app,
            access_log=access_log,
            shutdown_timeout_s=shutdown_timeout_s,
            on_ready=None if on_ready is None else lambda: on_ready(url),
        )
        server.run(sockets=[listener])


def base_url(listener: socket.socket) -> str:
    """Where a listening socket is reached, as `http://host:port`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()
