"""The endpoint encoder, against a real server on the loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from coe.encoders import EndpointEncoder
from coe.errors import ConfigError, RoutingError


class EmbeddingServer(ThreadingHTTPServer):
    """Embeds a text as (its length, 3, 4), and answers in reverse order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.n_connections = 0
        self.status = 200
        self.body: bytes | None = None
        self.hangs_up = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def verify_request(self, request: object, client_address: object) -> bool:
        self.n_connections += 1
        return True


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EmbeddingServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **asked})
        self.server.keys.append(self.headers["Authorization"])
        entries = [
            {"object": "embedding", "index": i, "embedding": [len(text), 3, 4]}
            for i, text in enumerate(asked["input"])
        ]
        body = self.server.body or json.dumps({"data": entries[::-1]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        # The client is not told, as with a server whose keep-alive ran out.
        self.close_connection = self.server.hangs_up

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def encoder(server: EmbeddingServer) -> Iterator[EndpointEncoder]:
    encoder = EndpointEncoder(server.base_url, "tiny")
    yield encoder
    encoder.close()


def test_endpoint_encoder_normalises_and_keeps_order(encoder: EndpointEncoder) -> None:
    rows = encoder.encode(["", "ab", "   ", "abcd"])
    expected = np.array([[0, 0, 0], [2, 3, 4], [0, 0, 0], [4, 3, 4]], dtype=np.float32)
    expected[1] /= np.linalg.norm(expected[1])
    expected[3] /= np.linalg.norm(expected[3])
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    assert rows.dtype == np.float32
    assert encoder.name == "endpoint:tiny"


def test_endpoint_encoder_asks_in_batches_over_one_connection(
    server: EmbeddingServer, encoder: EndpointEncoder
) -> None:
    texts = ["x" * (i + 1) for i in range(150)]
    rows = encoder.encode(texts)
    assert [len(asked["input"]) for asked in server.asked] == [64, 64, 22]
    assert np.all(np.diff(rows[:, 0]) > 0)
    assert server.asked[0]["path"] == "/v1/embeddings"
    assert server.asked[0]["model"] == "tiny"
    assert server.n_connections == 1


def test_endpoint_encoder_finds_its_dimension(
    server: EmbeddingServer, encoder: EndpointEncoder
) -> None:
    assert encoder.dim == 3
    assert encoder.encode(["", ""]).shape == (2, 3)
    assert encoder.encode([]).shape == (0, 3)
    assert len(server.asked) == 1


def test_endpoint_encoder_opens_a_new_connection_when_the_old_one_was_closed(
    server: EmbeddingServer, encoder: EndpointEncoder
) -> None:
    server.hangs_up = True
    for _ in range(3):
        assert encoder.encode(["abc"]).any()
    assert server.n_connections == 3


def test_endpoint_encoder_sends_the_key(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDINGS_KEY", "secret-1\n")
    encoder = EndpointEncoder(server.base_url, "tiny", "EMBEDDINGS_KEY")
    encoder.encode(["a"])
    encoder.close()
    assert server.keys == ["Bearer secret-1"]


def test_endpoint_encoder_without_its_key_says_which_variable() -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        EndpointEncoder("http://127.0.0.1:1/v1", "tiny", "NO_SUCH_KEY")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http:///v1"])
def test_endpoint_encoder_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.base_url"):
        EndpointEncoder(url, "tiny")


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, b'{"error": "bad key"}', 'answered 401: {"error": "bad key"}'),
        (503, b"busy", "answered 503: busy"),
        (200, b"<html>", "gave no list of embeddings"),
        (200, b"[]", "gave no list of embeddings"),
        (200, b'{"data": []}', "did not give 1 embeddings"),
        (200, b'{"data": [{"index": 1, "embedding": [1]}]}', "did not give 1 embeddings"),
        (200, b'{"data": [{"index": 0, "embedding": [NaN]}]}', "did not give 1 embeddings"),
    ],
)
def test_endpoint_encoder_reports_a_bad_answer_and_does_not_ask_again(
    server: EmbeddingServer, encoder: EndpointEncoder, status: int, body: bytes, problem: str
) -> None:
    server.status, server.body = status, body
    with pytest.raises(RoutingError) as caught:
        encoder.encode(["a"])
    assert problem in str(caught.value)
    assert f"{server.base_url}/embeddings" in str(caught.value)
    assert len(server.asked) == 1


def test_endpoint_encoder_refuses_a_change_of_dimension(
    server: EmbeddingServer, encoder: EndpointEncoder
) -> None:
    encoder.encode(["a"])
    server.body = b'{"data": [{"index": 0, "embedding": [1, 2]}]}'
    with pytest.raises(RoutingError, match="2 dimensions, and 3 before"):
        encoder.encode(["a"])


def test_endpoint_encoder_says_that_nobody_listens() -> None:
    with EmbeddingServer() as gone:
        url = gone.base_url
    with pytest.raises(RoutingError, match="cannot be reached"):
        EndpointEncoder(url, "tiny").encode(["a"])


def test_endpoint_encoder_waits_no_longer_than_its_timeout(server: EmbeddingServer) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(RoutingError, match=r"did not answer within 0\.05 s"):
            EndpointEncoder(url, "tiny", timeout_s=0.05).encode(["a"])
