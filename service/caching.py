"""Answers given once and told again: to the same tenant, for exactly the same request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Scope, Send

from coe.composition import Composition
from coe.service.reply import Header, extra_headers
from coe.service.wire import ChatCall
from coe.store import CachedResponse, ResponseCache, cache_key

MARK = b"x-coe-cache"
_MOST_BYTES = 4 * 1024 * 1024
_KEPT_HEADERS = (b"content-type", b"cache-control", b"x-accel-buffering")
_KEPT_EXTRAS = (b"x-coe-expert", b"x-coe-router", b"x-coe-scores")


class Caching:
    """The cache as generating routes use it."""

    def __init__(self, cache: ResponseCache, composition: Composition) -> None:
        self._cache = cache
        self._composition = composition

    def key(self, route: str, raw: Mapping[str, Any], call: ChatCall, tenant: str) -> str | None:
        """What the answer is kept under; None where the client wants a fresh one."""
        if call.control.skips_cache:
            return None
        composition, control = self._composition, call.control
        revisions = [_revision(repr(expert)) for expert in composition.pool]
        asked = {name: value for name, value in raw.items() if name != "coe"}
        how = [control.experts, control.policy, control.affinity]
        router = _revision(f"{composition.router.name}|{how}|{route}")
        try:
            return cache_key(asked, tenant, revisions, router)
        except (TypeError, ValueError):
            return None

    async def get(self, key: str) -> CachedResponse | None:
        return await self._cache.get(key)

    def recording(self, key: str, scope: Scope, send: Send) -> Recording:
        return Recording(self._cache, key, extra_headers(scope), send)


class Recording:
    """Sends an answer and remembers it."""

    def __init__(self, cache: ResponseCache, key: str, extra: list[Header], send: Send) -> None:
        self._cache, self._key, self._extra, self._send = cache, key, extra, send
        self._left = _MOST_BYTES
        self._pieces: list[bytes] = []
        self._headers: list[Header] = []
        self._is_answer, self._is_whole = False, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_answer = message["status"] == 200
            self._headers = [h for h in message["headers"] if h[0] in _KEPT_HEADERS]
            self._extra.append((MARK, b"miss"))
        else:
            body = message.get("body", b"")
            self._left -= len(body)
            if self._is_answer and self._left >= 0:
                self._pieces.append(body)
            else:
                self._is_answer = False
                self._pieces.clear()
            self._is_whole = not message.get("more_body", False)
        await self._send(message)

    async def keep(self) -> None:
        """Keeps what was sent if it was an answer, and all of it."""
        if self._is_answer and self._is_whole:
            extra = [h for h in self._extra if h[0] in _KEPT_EXTRAS]
            kept = CachedResponse(b"".join(self._pieces), (*self._headers, *extra))
            await self._cache.put(self._key, kept)


async def send_cached(send: Send, response: CachedResponse) -> None:
    """Says whence it comes. A stream comes in one piece."""
    headers = [*response.headers, (MARK, b"hit"), (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def _revision(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
