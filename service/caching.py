"""Answers given once and told again: to the same tenant, for exactly the same request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import Message, Send

from coe.composition import Composition
from coe.service.reply import Header
from coe.service.similar import NearAsk, Similar, without_ask
from coe.service.wire import ChatCall
from coe.store import CachedResponse, ResponseCache, cache_key

MARK = b"x-coe-cache"
_MOST_BYTES = 4 * 1024 * 1024
_KEPT_HEADERS = (b"content-type", b"cache-control", b"x-accel-buffering")
_KEPT_EXTRAS = (b"x-coe-expert", b"x-coe-router", b"x-coe-scores")


How = Literal["hit", "near", "miss"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known of one request."""

    key: str
    response: CachedResponse | None
    how: How
    ask: NearAsk | None = None


class Caching:
    """The cache as generating routes use it."""

    def __init__(
        self, cache: ResponseCache, composition: Composition, similar: Similar | None = None
    ) -> None:
        """`similar`: where near asks are answered, too."""
        self._cache = cache
        self._composition = composition
        self._similar = similar

    async def find(
        self, route: str, raw: Mapping[str, Any], call: ChatCall, tenant: str
    ) -> Lookup | None:
        """What is known of the request; None where the client wants a fresh answer."""
        key = self.key(route, raw, call, tenant)
        if key is None:
            return None
        known = await self._cache.get(key)
        if known is not None or self._similar is None:
            return Lookup(key, known, "miss" if known is None else "hit")
        rest = without_ask(raw, call)
        scope = None if rest is None else self.key(route, rest, call, tenant)
        if scope is None:
            return Lookup(key, None, "miss")
        ask = await self._similar.ask(tenant, scope, call.generation.ask or "")
        near = self._similar.get(ask)
        return Lookup(key, near, "miss" if near is None else "near", ask)

    def key(self, route: str, raw: Mapping[str, Any], call: ChatCall, tenant: str) -> str | None:
        """What the answer is kept under; None where the client wants a fresh one."""
        if call.control.skips_cache:
            return None
        composition, control = self._composition, call.control
        revisions = [_revision(repr(expert)) for expert in composition.pool]
        asked = {name: value for name, value in raw.items() if name != "coe"}
        how = [control.experts, control.policy, control.affinity]
        router = _revision(f"{composition.router.name}|{composition.revision}|{how}|{route}")
        try:
            return cache_key(asked, tenant, revisions, router)
        except (TypeError, ValueError):
            return None

    async def keep(self, lookup: Lookup, response: CachedResponse | None) -> None:
        """Keeps the answer to what was looked up; None: there was none, or not all of it."""
        if response is None:
            return
        await self._cache.put(lookup.key, response)
        if self._similar is not None and lookup.ask is not None:
            self._similar.put(lookup.ask, response)


class Recording:
    """Sends an answer and remembers it."""

    def __init__(self, extra: list[Header], send: Send) -> None:
        self._extra, self._send = extra, send
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

    @property
    def response(self) -> CachedResponse | None:
        """What was sent, if it was an answer and all of it."""
        if not (self._is_answer and self._is_whole):
            return None
        extra = [h for h in self._extra if h[0] in _KEPT_EXTRAS]
        return CachedResponse(b"".join(self._pieces), (*self._headers, *extra))


async def send_cached(send: Send, response: CachedResponse, how: str) -> None:
    """Says whence it comes. A stream comes in one piece."""
    headers = [
        *response.headers,
        (MARK, how.encode()),
        (b"content-length", b"%d" % len(response.body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def _revision(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
