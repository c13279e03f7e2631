"""`POST /v1/chat/completions`: decide, generate, and tell it whole or piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from starlette.types import Receive, Scope, Send

from coe.composition import Answering, Composition
from coe.engines.base import collect
from coe.errors import DeadlineExceeded, UpstreamError
from coe.feedback_log import FeedbackLog
from coe.routing import RoutingDecision
from coe.service.chunks import DONE, ChunkWriter, completion_body, error_event
from coe.service.errors import BodyTooSlow, ModelNotFound, answer_for
from coe.service.presence import while_connected
from coe.service.reply import (
    Header,
    extra_headers,
    header_value,
    read_body,
    require_json,
    send_json,
)
from coe.service.settings import ServiceSettings
from coe.service.wire import COMPLETION_PREFIX, ChatCall, read_chat
from coe.types import Delta, FinishReason, Query

_MAX_SCORES = 8
_FAREWELL_S = 1.0
_STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who hears the answer, and under which names."""

    send: Send
    request_id: str
    decision_id: str
    headers: list[Header]
    """What the response will carry besides its own; grows with what is known."""
    until_s: float
    """When the request's time is up, on the event loop's clock."""

    @property
    def completion_id(self) -> str:
        return COMPLETION_PREFIX + self.decision_id


class ChatCompletions:
    """The ASGI app behind the route. Raises every error that comes before the first byte."""

    def __init__(
        self,
        composition: Composition,
        settings: ServiceSettings,
        feedback: FeedbackLog | None = None,
    ) -> None:
        self._composition = composition
        self._settings = settings
        self._feedback = feedback
        self._model_names = (settings.model_name, *composition.router.pool.ids)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_json(scope)
        until_s = asyncio.get_running_loop().time() + self._settings.request_timeout_s
        call = read_chat(await self._body(receive, until_s))
        async with while_connected(receive):
            async with self._deadline(until_s):
                decision = await self._decide(call)
            listener = _Listener(
                send,
                scope["coe.request_id"],
                decision.query_id or uuid4().hex,
                extra_headers(scope),
                until_s,
            )
            if call.is_streamed:
                await self._stream(call, decision, listener)
                return
            async with (
                self._deadline(until_s),
                self._answering(call, decision, listener) as answer,
            ):
                completion = await collect(answer.decision.experts[0], answer.deltas)
        body = completion_body(listener.completion_id, self._model_of(answer), completion)
        await send_json(send, body)

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

    @asynccontextmanager
    async def _answering(
        self, call: ChatCall, decision: RoutingDecision, listener: _Listener
    ) -> AsyncIterator[Answering]:
        """The answer, begun, with headers that tell who gives it.

        Until it has begun they tell who was to give it, so that a failure names them, too.
        """
        headers, n_before = listener.headers, len(listener.headers)
        headers += decision_headers(decision, listener.decision_id)
        async with self._composition.answering(call.generation, decision) as answer:
            headers[n_before:] = decision_headers(answer.decision, listener.decision_id)
            if self._feedback is not None:
                text = Query.of_messages(call.generation.messages).text
                answered = answer.decision.experts
                self._feedback.remember(listener.decision_id, text, decision, answered)
            yield answer

    def _model_of(self, answer: Answering) -> str:
        """The expert, where one answered alone."""
        experts = answer.decision.experts
        return experts[0] if len(experts) == 1 else self._settings.model_name

    async def _stream(self, call: ChatCall, decision: RoutingDecision, listener: _Listener) -> None:
        """Sends no header before the first delta, so that what fails until then has a status.

        What fails later becomes an error event, and the response is left without its end: the
        server then drops the connection, and nobody can take half an answer for a whole one.
        """
        send = listener.send
        is_started = False
        try:
            async with (
                self._deadline(listener.until_s),
                self._answering(call, decision, listener) as answer,
            ):
                model = self._model_of(answer)
                chunks = ChunkWriter(listener.completion_id, model, call.wants_usage)
                async for delta in _whole(answer):
                    events = _events(delta, chunks, call.wants_usage)
                    if not is_started:
                        await send(_stream_start())
                        is_started = True
                        events = chunks.first() + events
                    await send(_piece(events))
        except Exception as error:
            if not is_started:
                raise
            told = _piece(error_event(answer_for(error, listener.request_id).envelope))
            with suppress(TimeoutError):
                # Whoever reads no more must not hold this request for ever.
                async with asyncio.timeout(_FAREWELL_S):
                    await send(told)
            return
        async with self._deadline(listener.until_s):
            await send({"type": "http.response.body", "body": DONE})

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


async def _whole(answer: Answering) -> AsyncIterator[Delta]:
    """The answer without empty deltas, ending with a finish reason or raising."""
    reason: FinishReason | None = None
    async for delta in answer.deltas:
        reason = delta.finish_reason or reason
        if delta.text or delta.finish_reason:
            yield delta
    if reason is None:
        raise UpstreamError(answer.decision.experts[0], "the answer broke off before its end")


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
