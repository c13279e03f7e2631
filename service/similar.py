"""Answers told again for an ask that means the same: opt-in, since it can be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coe.routing import FloatArray
from coe.service.wire import ChatCall
from coe.store import CachedResponse
from coe.store.semantic import SemanticCache, Vector

Encode = Callable[[Sequence[str]], FloatArray]
"""Texts → unit vectors, a row each."""


@dataclass(frozen=True, slots=True)
class NearAsk:
    """What one request is compared by."""

    tenant: str
    scope: str
    """Of all of the request but its last words."""
    text: str
    vector: Vector


class Similar:
    """Finds answers to asks that are near enough."""

    def __init__(self, cache: SemanticCache, encode: Encode, is_slow: bool = False) -> None:
        """`is_slow`: encoding takes a model or a network, so it belongs in a thread."""
        self._cache = cache
        self._encode = encode
        self._is_slow = is_slow

    async def ask(self, tenant: str, scope: str, text: str) -> NearAsk:
        if self._is_slow:
            rows = await asyncio.to_thread(self._encode, [text])
        else:
            rows = self._encode([text])
        return NearAsk(tenant, scope, text, rows[0].astype("float32"))

    def get(self, ask: NearAsk) -> CachedResponse | None:
        hit = self._cache.get(ask.tenant, ask.scope, ask.text, ask.vector)
        return None if hit is None else hit.response

    def put(self, ask: NearAsk, response: CachedResponse) -> None:
        self._cache.put(ask.tenant, ask.scope, ask.text, ask.vector, response)


def without_ask(raw: Mapping[str, Any], call: ChatCall) -> Mapping[str, Any] | None:
    """The request but for its last words; None where those are not all of its last message.

    Only what is text alone can mean the same as another text.
    """
    messages = raw.get("messages")
    if call.complaint is not None or not isinstance(messages, list) or not messages:
        return None
    last = messages[-1]
    if last.get("role") != "user" or last.get("content") != call.generation.ask:
        return None
    return {**raw, "messages": [*messages[:-1], {**last, "content": ""}]}
