"""Any OpenAI-compatible `/v1/embeddings` endpoint, over kept-alive connections.

Standard library only, and blocking: the caller decides on which thread. A failed call is not
tried again, because the router above has cheaper ways out than waiting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from coe.encoders.vectors import FloatArray, clip, unit_rows
from coe.errors import ConfigError, RoutingError

BATCH_TEXTS = 64


class EndpointEncoder:
    """Asks `POST {base_url}/embeddings`, 64 texts a call. `close` drops the connections.

    Blank texts are not sent, and are the zero vector. Failures raise `RoutingError`.
    """

    def __init__(
        self, base_url: str, model: str, api_key_env: str | None = None, timeout_s: float = 30.0
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(
                f"{base_url!r} must be an address like http://host:8000/v1",
                key="encoder.base_url",
            )
        self._tls = url.scheme == "https"
        self._host, self._port = url.hostname, url.port
        self._path = f"{url.path.rstrip('/')}/embeddings"
        self._url = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{self._path}"
        self._model = model
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", **_authorization(api_key_env)}
        self._idle: list[HTTPConnection] = []
        self._lock = Lock()
        self._dim: int | None = None

    @property
    def name(self) -> str:
        """The model alone: the same model behind another address gives the same vectors."""
        return f"endpoint:{self._model}"

    @property
    def dim(self) -> int:
        """Known after the first call; asked before that, one word is sent to find out."""
        if self._dim is None:
            self._dim = self._embed(["dimension"]).shape[1]
        return self._dim

    def encode(self, texts: Sequence[str]) -> FloatArray:
        known = [i for i, text in enumerate(texts) if text.strip()]
        parts = [
            self._embed([clip(texts[i]) for i in known[start : start + BATCH_TEXTS]])
            for start in range(0, len(known), BATCH_TEXTS)
        ]
        rows = np.zeros((len(texts), parts[0].shape[1] if parts else self.dim), dtype=np.float32)
        for part, start in zip(parts, range(0, len(known), BATCH_TEXTS), strict=True):
            rows[known[start : start + BATCH_TEXTS]] = part
        return unit_rows(rows)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _embed(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, dim) as the endpoint gave them, in the order asked."""
        asked = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        status, body = self._post(json.dumps(asked).encode())
        if status != 200:
            said = body[:200].decode("utf-8", "replace")
            raise self._failure(f"answered {status}: {said}; check the model's name and the key")
        rows = self._parsed(body, len(texts))
        if self._dim is not None and rows.shape[1] != self._dim:
            raise self._failure(f"gave {rows.shape[1]} dimensions, and {self._dim} before")
        self._dim = int(rows.shape[1])
        return rows

    def _parsed(self, body: bytes, n_texts: int) -> FloatArray:
        try:
            entries: list[dict[str, Any]] = json.loads(body)["data"]
            entries = sorted(entries, key=lambda entry: int(entry["index"]))
            indices = [int(entry["index"]) for entry in entries]
            rows = np.array([entry["embedding"] for entry in entries], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise self._failure(f"gave no list of embeddings ({error!r})") from None
        if indices != list(range(n_texts)) or rows.ndim != 2 or not np.isfinite(rows).all():
            raise self._failure(f"did not give {n_texts} embeddings of one length")
        return rows

    def _post(self, payload: bytes) -> tuple[int, bytes]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._exchange(connection, payload)
            except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                pass  # The server had closed the idle connection; the call itself is untried.
            except (OSError, HTTPException) as error:
                raise self._unreachable(error) from None
        try:
            return self._exchange(self._connection(), payload)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _exchange(self, connection: HTTPConnection, payload: bytes) -> tuple[int, bytes]:
        """One call. The connection is kept for the next one, or closed if the call failed."""
        try:
            connection.request("POST", self._path, payload, self._headers)
            response = connection.getresponse()
            answer = response.status, response.read()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return answer

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._tls else HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_s)

    def _unreachable(self, error: Exception) -> RoutingError:
        if isinstance(error, TimeoutError):
            return self._failure(f"did not answer within {self._timeout_s:g} s")
        return self._failure(f"cannot be reached ({error}); is it running, and is the URL right?")

    def _failure(self, problem: str) -> RoutingError:
        return RoutingError(f"embedding endpoint {self._url} {problem}")


def _authorization(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {api_key_env} is not set; export the key there",
            key="encoder.api_key_env",
        )
    return {"Authorization": f"Bearer {key}"}
