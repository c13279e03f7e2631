"""S11 at the server: heads without end, bodies that lie, smuggled requests. On a real socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from coe.service.app import create_app
from coe.service.connection import Connection
from coe.service.server import bind, config_for, server_for
from coe.service.settings import ServiceSettings

BODY = b'{"model":"cheap","messages":[{"role":"user","content":"hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: c\r\ncontent-type: application/json\r\n"


class _Hasty(Connection):
    max_head_bytes = 4096
    head_timeout_s = 0.2


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def _listening() -> AsyncIterator[Callable[[], Any]]:
    """A socket behind which connections have little patience; gives a way to connect."""
    config: uvicorn.Config = config_for(_hello, "off", 1)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Hasty(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield lambda: asyncio.open_connection("127.0.0.1", port)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.close()
        for task in list(state.tasks):
            await task
        await server.wait_closed()


async def _trickle(writer: asyncio.StreamWriter, piece: bytes, n: int, pause_s: float) -> None:
    try:
        for _ in range(n):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    ("piece", "beginning"),
    [
        (b"a: b\r\n", b"GET / HTTP/1.1\r\n"),
        (b"a", b"GET /"),
        (b"\r\n", b""),
        (b"", b""),
    ],
)
async def test_head_that_trickles_ends(piece: bytes, beginning: bytes) -> None:
    """S11: whoever sends a head byte by byte, or nothing at all, does not keep the connection."""
    async with _listening() as connect:
        reader, writer = await connect()
        writer.write(beginning)
        trickling = asyncio.create_task(_trickle(writer, piece, 200, 0.02))
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        trickling.cancel()
        writer.close()


async def test_second_head_on_a_connection_trickles_no_longer_than_the_first() -> None:
    async with _listening() as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        trickling = asyncio.create_task(_trickle(writer, b"G", 1, 9.0))
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        trickling.cancel()
        writer.close()


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 100, b"x" * 600, b"a: " + b"b" * 600])
async def test_head_without_end_is_refused(piece: bytes) -> None:
    """S11: neither many headers nor a long one fill the memory."""
    async with _listening() as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: c\r\ny: ")
        pouring = asyncio.create_task(_trickle(writer, piece, 1000, 0.001))
        async with asyncio.timeout(3):
            status = await reader.readline()
        pouring.cancel()
        assert b" 431 " in status
        writer.close()


def test_whatever_is_served_has_such_connections() -> None:
    config = config_for(_hello, "off", 1)
    config.load()
    assert config.http_protocol_class is Connection


async def test_patience_is_with_bodies_and_between_requests() -> None:
    """A body that takes its time is somebody else's to bound, and so is a pause."""
    async with _listening() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 4\r\n\r\n")
            await asyncio.sleep(0.3)
            writer.write(b"body")
            told = await reader.readuntil(b"0\r\n\r\n")
            assert b"hello" in told
            await asyncio.sleep(0.3)
        writer.close()


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """The gateway itself, on a socket."""
    from coe.composition import Composition
    from coe.engines.scripted import ScriptedEngine
    from coe.experts import Expert, ExpertPool, ScriptedSpec
    from coe.routers.baselines import RandomScorer
    from coe.routers.policies import TopK
    from coe.routing import Router

    expert = Expert("cheap", ScriptedSpec(default="cheap"))
    pool = ExpertPool((expert,))
    router = Router(RandomScorer(pool.ids), TopK(1), pool)
    composition = Composition(router, {"cheap": ScriptedEngine(expert)})
    app = create_app(composition, ServiceSettings(max_body_bytes=2000, request_timeout_s=0.3))
    ready = threading.Event()
    server = server_for(app, on_ready=ready.set)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(20)
        yield listener.getsockname()[:2]
        server.should_exit = True
        thread.join(20)


def _said(address: tuple[str, int], sent: bytes) -> bytes:
    """All that comes back until the other side is silent or closes."""
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(sent)
        connection.settimeout(0.6)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
        return answer


def _statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def test_ordinary_request_is_answered_on_the_same_socket(address: tuple[str, int]) -> None:
    closing = HEAD + b"connection: close\r\n"
    whole = closing + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    assert _statuses(_said(address, whole)) == [200]
    chunked = closing + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(BODY),
        BODY,
    )
    assert _statuses(_said(address, chunked)) == [200]


_HIDDEN = b"GET /v1/models HTTP/1.1\r\nhost: c\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 3\r\ncontent-length: 4\r\n\r\n",
        b"content-length: +3\r\n\r\n",
        b"content-length: 0x3\r\n\r\n",
        b"content-length: 3, 3\r\n\r\n",
        b"content-length: -1\r\n\r\n",
        b"content-length: 99999999999999999999999\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        b" folded: x\r\n\r\n",
        b"a b: x\r\n\r\n",
        b"a\x00: x\r\n\r\n",
    ],
)
def test_request_that_two_readers_could_split_differently_hides_no_other(
    address: tuple[str, int], headers: bytes
) -> None:
    """S11: request smuggling: what follows a doubtful body is not taken for a request."""
    statuses = _statuses(_said(address, HEAD + headers + _HIDDEN))
    assert 200 not in statuses
    assert all(400 <= status < 500 for status in statuses)


@pytest.mark.parametrize("length", [10**4, 10**12])
def test_body_that_announces_too_much_is_refused_before_it_comes(
    address: tuple[str, int], length: int
) -> None:
    answer = _said(address, HEAD + b"content-length: %d\r\n\r\n" % length)
    assert _statuses(answer)[0] == 413


def test_chunks_over_the_limit_are_refused(address: tuple[str, int]) -> None:
    """S11: nothing is announced, and still no more than the limit is read."""
    chunk = b"190\r\n" + b" " * 400 + b"\r\n"
    answer = _said(address, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 20)
    assert _statuses(answer)[0] == 413


def test_body_that_does_not_come_is_given_up(address: tuple[str, int]) -> None:
    """S11: on every route that reads one, and not only where experts are asked."""
    for path in (b"/v1/chat/completions", b"/v1/route", b"/v1/responses"):
        head = HEAD.replace(b"/v1/chat/completions", path)
        answer = _said(address, head + b"content-length: 100\r\n\r\n{")
        assert _statuses(answer)[:1] == [408], path


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://c/sleep HTTP/1.1",
        b"GET http://127.0.0.1:1/sleep HTTP/1.1",
        b"POST //sleep HTTP/1.1",
        b"GET /v1/models/../../sleep HTTP/1.1",
        b"GET /%2e%2e/sleep HTTP/1.1",
        b"CONNECT 127.0.0.1:1 HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET sleep HTTP/1.1",
    ],
)
def test_request_line_of_another_form_leads_nowhere(address: tuple[str, int], line: bytes) -> None:
    """S9, S16: absolute form, authority form and paths with dots are no way in."""
    headers = b"\r\nhost: c\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    answer = _said(address, line + headers)
    assert all(status in (400, 404, 405) for status in _statuses(answer)[:1])
    assert b"x-coe-expert" not in answer


def test_other_protocols_are_not_spoken(address: tuple[str, int]) -> None:
    upgrade = b"GET /v1/models HTTP/1.1\r\nhost: c\r\nconnection: upgrade\r\nupgrade: "
    for name in (b"websocket", b"h2c"):
        told = _said(address, upgrade + name + b"\r\nsec-websocket-key: AA==\r\n\r\n")
        assert b" 101 " not in told.split(b"\r\n")[0]
