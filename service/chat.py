"""`POST /v1/chat/completions`: decide, generate, and tell it whole or piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.engines.base import closing_stream
from coe.errors import DeadlineExceeded, UpstreamError
from coe.routing import RoutingDecision
from coe.service.chunks import DONE, ChunkWriter, completion_body, error_event
from coe.service.errors import BodyTooSlow, ModelNotFound, NotJsonType, answer_for
from coe.service.presence import while_connected
from coe.service.reply import (
    Header,
    extra_headers,
    header_value,
    read_body,
    request_header,
    send_json,
)
from coe.service.settings import ServiceSettings
from coe.service.wire import ChatCall, read_chat
from coe.types import Delta, FinishReason

_MAX_SCORES = 8
_STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who hears a stream, and under which request id."""

    send: Send
    request_id: str
    until_s: float
    """When the request's time is up, on the event loop's clock."""


class ChatCompletions:
    """The ASGI app behind the route. Raises every error that comes before the first byte."""

    def __init__(self, composition: Composition, settings: ServiceSettings) -> None:
        self._composition = composition
        self._settings = settings
        self._model_names = (settings.model_name, *composition.router.pool.ids)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _require_json(scope)
        until_s = asyncio.get_running_loop().time() + self._settings.request_timeout_s
        call = read_chat(await self._body(receive, until_s))
        async with while_connected(receive):
            async with self._deadline(until_s):
                decision = await self._decide(call)
            decision_id = decision.query_id or uuid4().hex
            extra_headers(scope).extend(decision_headers(decision, decision_id))
            completion_id = f"chatcmpl-{decision_id}"
            experts = decision.experts
            model = experts[0] if len(experts) == 1 else self._settings.model_name
            if call.is_streamed:
                chunks = ChunkWriter(completion_id, model, call.wants_usage)
                listener = _Listener(send, scope["coe.request_id"], until_s)
                await self._stream(call, decision, chunks, listener)
                return
            async with self._deadline(until_s):
                completion = await self._composition.complete(call.generation, decision)
        await send_json(send, completion_body(completion_id, model, completion))

    async def _body(self, receive: Receive, until_s: float) -> bytes:
        try:
            async with self._deadline(until_s):
                return await read_body(receive)
        except DeadlineExceeded:
            raise BodyTooSlow(self._settings.request_timeout_s) from None

    async def _decide(self, call: ChatCall) -> RoutingDecision:
        if call.model not in self._model_names:
            raise ModelNotFound(call.model, self._model_names)
        if call.model != self._settings.model_name:
            return self._composition.decide(call.generation, call.model)
        if self._composition.decides_slowly:
            return await asyncio.to_thread(self._composition.decide, call.generation)
        return self._composition.decide(call.generation)

    async def _stream(
        self, call: ChatCall, decision: RoutingDecision, chunks: ChunkWriter, listener: _Listener
    ) -> None:
        """Sends no header before the first delta, so that what fails until then has a status.

        What fails later becomes an error event, and the response is left without its end: the
        server then drops the connection, and nobody can take half an answer for a whole one.
        """
        send = listener.send
        is_started = False
        try:
            async with (
                self._deadline(listener.until_s),
                closing_stream(self._deltas(call, decision)) as deltas,
            ):
                async for delta in deltas:
                    events = _events(delta, chunks, call.wants_usage)
                    if not is_started:
                        await send(_stream_start())
                        is_started = True
                        events = chunks.first() + events
                    await send(_piece(events))
        except Exception as error:
            if not is_started:
                raise
            await send(_piece(error_event(answer_for(error, listener.request_id).envelope)))
            return
        await send({"type": "http.response.body", "body": DONE})

    async def _deltas(self, call: ChatCall, decision: RoutingDecision) -> AsyncIterator[Delta]:
        """The composition's stream without empty deltas, ending with a finish reason or raising."""
        reason: FinishReason | None = None
        async with closing_stream(self._composition.stream(call.generation, decision)) as deltas:
            async for delta in deltas:
                reason = delta.finish_reason or reason
                if delta.text or delta.finish_reason:
                    yield delta
        if reason is None:
            raise UpstreamError(decision.experts[0], "the answer broke off before its end")

    @asynccontextmanager
    async def _deadline(self, until_s: float) -> AsyncIterator[None]:
        timeout_s = self._settings.request_timeout_s
        try:
            async with asyncio.timeout_at(until_s) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"no whole answer within {timeout_s:g} s; lower max_tokens, "
                "or have the gateway's request timeout raised"
            ) from None


def _require_json(scope: Scope) -> None:
    """Refuses what a web page may send to any address without having to ask first.

    A page's form or `fetch` can carry any body, but `application/json` only after a preflight,
    which this gateway does not grant.
    """
    given = request_header(scope, b"content-type")
    content_type = None if given is None else given.decode("latin-1")
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise NotJsonType(content_type)


def decision_headers(decision: RoutingDecision, decision_id: str) -> list[Header]:
    """Who answers and why, in headers: experts best first, then the best scores."""
    headers = [
        (b"x-coe-expert", header_value(*decision.experts)),
        (b"x-coe-router", header_value(decision.router)),
        (b"x-coe-decision-id", header_value(decision_id)),
    ]
    if decision.scores:
        best = sorted(decision.scores.items(), key=lambda item: -item[1])[:_MAX_SCORES]
        scores = (f"{expert_id}={score:.4g}" for expert_id, score in best)
        headers.append((b"x-coe-scores", header_value(*scores)))
    return headers


def _events(delta: Delta, chunks: ChunkWriter, wants_usage: bool) -> bytes:
    events = chunks.text(delta.text) if delta.text else b""
    if delta.finish_reason is not None:
        events += chunks.last(delta.finish_reason)
        if wants_usage:
            events += chunks.usage(delta.usage)
    return events


def _stream_start() -> dict[str, object]:
    return {"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)}


def _piece(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
