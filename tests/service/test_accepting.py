"""Connections that stand before a gateway, and how they are taken over."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from coe.service.accepting import waiting_at
from coe.service.admission import Admission, AdmissionRules, Intake
from coe.service.server import bind, server_for


async def _alive(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that does nothing but begin and end."""
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _connected(listener: socket.socket, n: int) -> list[socket.socket]:
    return [socket.create_connection(listener.getsockname(), timeout=5) for _ in range(n)]


def test_waiting_at_counts_connections_that_nobody_has_taken_over() -> None:
    with bind("127.0.0.1", 0) as listener:
        before = waiting_at(listener)
        clients = _connected(listener, 3)
        after = waiting_at(listener)
        taken, _ = listener.accept()
        left = waiting_at(listener)
        for one in (*clients, taken):
            one.close()
    assert (before, after, left) == (0, 3, 2)
    assert waiting_at(listener) == 0  # it is closed


async def _rounds_of(server: uvicorn.Server, listener: socket.socket, n: int) -> set[int]:
    """How many of so many connections it had in its rounds, until it had all of them."""
    serving = asyncio.create_task(server.serve([listener]))
    seen = set()
    while len(server.server_state.connections) < n or not server.started:
        seen.add(len(server.server_state.connections))
        await asyncio.sleep(0)
    server.should_exit = True
    await serving
    return seen


def test_server_takes_several_connections_over_at_once_and_tells_of_the_others() -> None:
    intake = Intake(AdmissionRules(10, 0.02))
    told: list[int] = []
    with bind("127.0.0.1", 0) as listener:
        clients = _connected(listener, 16)
        server = server_for(
            Admission(_alive, intake), on_ready=lambda: told.append(intake._waiting())
        )
        seen = uvloop.run(_rounds_of(server, listener, len(clients)))
        for one in clients:
            one.close()
    # One after the other they would be seen at every number between.
    assert len(seen) <= 4
    assert 0 < told[0] <= 16
