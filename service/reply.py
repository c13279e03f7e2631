"""Bytes on the way in and out: bodies, JSON, and headers that arrive whatever they carry."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from coe.service.errors import BodyTooLarge, NotJsonType

Header = tuple[bytes, bytes]

# Printable ASCII without the comma and the per cent sign, which the values use themselves.
_SAFE = " !\"#$&'()*+-./:;<=>?@[\\]^_`{|}~"
MAX_HEADER_BYTES = 512


def to_json(value: object) -> bytes:
    """The value as JSON. A lone surrogate, which no UTF-8 can carry, becomes `?`."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_encodable(value))


@lru_cache(maxsize=4096)
def header_value(*texts: str) -> bytes:
    """The texts as one header may carry them: comma-separated ASCII, at most 512 bytes.

    What is not printable ASCII is per cent encoded, and so are commas.
    """
    return b",".join(map(quoted, texts))[:MAX_HEADER_BYTES]


@lru_cache(maxsize=4096)
def quoted(text: str) -> bytes:
    """One text as `header_value` writes it."""
    return quote(text, safe=_SAFE, errors="replace").encode("ascii")


def extra_headers(scope: Scope) -> list[Header]:
    """Headers that this request's response will carry, whoever sends it, an error included."""
    headers: list[Header] = scope.setdefault("coe.headers", [])
    return headers


def request_header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def require_json(scope: Scope) -> None:
    """Refuses what a web page may send to any address without having to ask first.

    A page's form or `fetch` can carry any body, but `application/json` only after a preflight,
    which this gateway does not grant.
    """
    given = request_header(scope, b"content-type")
    content_type = None if given is None else given.decode("latin-1")
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise NotJsonType(content_type)


async def read_body(receive: Receive, max_bytes: int | None = None) -> bytes:
    """The whole body. Raises `ClientDisconnect` if the client leaves in the middle of it.

    Raises `BodyTooLarge` over `max_bytes`, for a route that takes less than the gateway does.
    """
    pieces: list[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        n_bytes += len(pieces[-1])
        if max_bytes is not None and n_bytes > max_bytes:
            raise BodyTooLarge(max_bytes)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def send_json(
    send: Send, content: object, status: int = 200, headers: Iterable[Header] = ()
) -> None:
    await send_body(send, to_json(content), status, headers)


async def send_body(
    send: Send, body: bytes, status: int = 200, headers: Iterable[Header] = ()
) -> None:
    """A whole body that is JSON already."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
