"""Connections that the kernel has made and nobody has taken over yet.

The event loop takes one connection from a listening socket in each of its rounds. Where many come
at once they would stand there for rounds without end, unseen by whoever decides what the process
takes on, until the kernel lets new ones wait for seconds. So a listening socket is given to the
loop several times over, which takes as many in a round; and those that stand there are counted.
"""

from __future__ import annotations

import socket
import struct

N_AT_ONCE = 8
"""Connections taken over in one round. Each costs a look in vain whenever one comes alone."""
_QUEUED_AT = 24
"""Where Linux's `struct tcp_info` has `tcpi_unacked`, which is that of a listening socket."""


def waiting_at(listener: socket.socket) -> int:
    """How many stand there; 0 where the system does not tell."""
    if not hasattr(socket, "TCP_INFO") or listener.fileno() < 0:
        return 0
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED_AT + 4)
    if len(told) < _QUEUED_AT + 4:
        return 0
    return int(struct.unpack_from("=I", told, _QUEUED_AT)[0])
