"""The listening sockets of one port, which several processes serve.

On Linux each process has a socket of its own, and the kernel spreads connections over them evenly;
of one socket that all accept from, who wakes first takes all that wait. The first process keeps
every socket open, so that connections wait while the process behind one is replaced.
"""

from __future__ import annotations

import sys
from socket import socket

from coe.service.server import base_url, bind


class Doors:
    """One for each place. A context manager, which closes them."""

    def __init__(self, host: str, port: int, n: int) -> None:
        """Port 0 takes a free one. Raises `ConfigError` if the address cannot be had."""
        self._host = host
        self._is_spread = sys.platform == "linux"
        first = bind(host, port)  # alone, or it would share the port with another gateway
        self.url = base_url(first)
        self._port = int(first.getsockname()[1])
        if not self._is_spread:
            self._open = dict.fromkeys(range(n), first)
            return
        first.close()
        self._open = {}
        for index in range(n):
            self.of(index)

    def __enter__(self) -> Doors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, index: int) -> socket:
        """The socket of a place, opened if it was shut."""
        if index not in self._open:
            self._open[index] = bind(self._host, self._port, is_spread=True)
        return self._open[index]

    def shut(self, index: int) -> None:
        """New connections go to other places; one that waits at this is refused."""
        if self._is_spread and index in self._open:
            self._open.pop(index).close()

    def close(self) -> None:
        for listener in self._open.values():
            listener.close()
