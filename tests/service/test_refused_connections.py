"""What a client that is not let in hears on its connection, before it has sent its body."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import parse_headers
from typing import Any
from urllib.parse import urlsplit

import pytest

from coe.composition import Composition
from coe.service.app import create_app, gateway_app
from coe.service.gateway import Gateway
from coe.service.settings import ServiceSettings

BODY = json.dumps({"model": "coe", "messages": [{"role": "user", "content": "2 + 3"}]}).encode()


def _post(*headers: str, version: str = "1.1") -> bytes:
    lines = [
        f"POST /v1/chat/completions HTTP/{version}",
        "host: coe",
        "content-type: application/json",
        f"content-length: {len(BODY)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


GET = b"GET /healthz HTTP/1.1\r\nhost: coe\r\n\r\n"


class Client:
    """One connection, byte by byte."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=10)
        self._file = self._socket.makefile("rb")

    def says(self, *pieces: bytes) -> None:
        self._socket.sendall(b"".join(pieces))

    def hears(self) -> tuple[int, Message, bytes]:
        """Status, headers and body of the next response."""
        _, status, _ = self._file.readline().split(b" ", 2)
        headers = parse_headers(self._file)
        return int(status), headers, self._file.read(int(headers["content-length"]))

    def closes_its_side(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def hears_all(self) -> bytes:
        with suppress(ConnectionResetError):
            return self._file.read()
        return b""

    def hears_the_end(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Connect = Callable[[int], Any]


@pytest.fixture
def gateway(compose: Callable[..., Composition], serve: Any) -> Connect:
    """Connects to a gateway that has so many requests under way at most."""

    @contextmanager
    def connected(max_in_flight: int) -> Iterator[Client]:
        app = create_app(compose(), ServiceSettings(max_in_flight=max_in_flight))
        with serve(app) as live:
            client = Client(live.url)
            try:
                yield client
            finally:
                client.close()

    return connected


def test_refused_connection_hears_so_before_its_body_and_is_kept(gateway: Connect) -> None:
    with gateway(0) as client:
        for given in ("x-request-id: mine", "x-other: 1"):
            client.says(_post(given))
            status, headers, body = client.hears()
            assert status == 503
            assert headers["retry-after"] == "1"
            assert headers["content-type"] == "application/json"
            assert headers["date"]
            assert json.loads(body)["error"]["code"] == "overloaded"
            is_mine = headers["x-request-id"] == "mine"
            assert is_mine is (given == "x-request-id: mine")
            client.says(BODY)
        client.says(GET)
        assert client.hears()[0] == 200


def test_refused_connection_answers_in_turn_what_is_sent_at_once(gateway: Connect) -> None:
    with gateway(0) as client:
        client.says(_post(), BODY, GET, _post(), BODY, GET)
        assert [client.hears()[0] for _ in range(4)] == [503, 200, 503, 200]


@pytest.mark.parametrize(
    "head", [_post("expect: 100-continue"), _post("connection: close"), _post(version="1.0")]
)
def test_refused_connection_ends_where_nothing_can_follow(gateway: Connect, head: bytes) -> None:
    with gateway(0) as client:
        client.says(head)
        status, headers, body = client.hears()
        assert (status, headers["connection"]) == (503, "close")
        assert json.loads(body)["error"]["code"] == "overloaded"
        assert client.hears_the_end()


def test_refused_connection_is_let_in_the_next_time(
    compose: Callable[..., Composition], serve: Any
) -> None:
    gateway = Gateway(compose())
    with serve(gateway_app(gateway)) as live:
        client = Client(live.url)
        for n_in_flight, status in ((10_000, 503), (0, 200), (10_000, 503), (0, 200)):
            gateway.intake.n_in_flight = n_in_flight
            client.says(_post(), BODY)
            assert client.hears()[0] == status
        client.close()


def test_connection_gives_the_place_back_after_each_request(gateway: Connect) -> None:
    unread = b"POST /v1/chat/completions HTTP/1.1\r\nhost: coe\r\ncontent-length: 2\r\n\r\n{}"
    with gateway(1) as client:
        for request, status in ((_post() + BODY, 200), (unread, 415), (_post() + BODY, 200)):
            client.says(request)
            assert client.hears()[0] == status


ODD = (
    b"POST http://host HTTP/1.1\r\nhost: coe\r\ncontent-length: 0\r\n\r\n",
    b"POST http://a:b/ HTTP/1.1\r\nhost: coe\r\ncontent-length: 0\r\n\r\n",
    b"POST http://host:99999999/ HTTP/1.1\r\nhost: coe\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: coe\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    _post("expect: 100-continue") + BODY,
    _post()[:40],
    b"POST / HTTP/1.1\r\nhost: coe\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
)


@pytest.mark.parametrize("request_", ODD)
def test_connection_keeps_no_place_for_what_cannot_be_read(
    compose: Callable[..., Composition], serve: Any, request_: bytes
) -> None:
    gateway = Gateway(compose())
    with serve(gateway_app(gateway)) as live:
        for _ in range(3):
            client = Client(live.url)
            client.says(request_)
            client.closes_its_side()
            client.hears_all()
            client.close()
        client = Client(live.url)
        client.says(_post(), BODY)
        assert client.hears()[0] == 200
        client.close()
    assert gateway.intake.n_in_flight == 0


def test_refused_connection_that_reads_nothing_is_ended(gateway: Connect) -> None:
    many = b"POST / HTTP/1.1\r\nhost: coe\r\n\r\n" * 20_000
    with gateway(0) as client, pytest.raises(OSError, match=r"reset|pipe"):
        client.says(*[many] * 100)
