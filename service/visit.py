"""One request being served: decided on, answered, and told whole or piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field

from starlette.types import Send

from coe.composition import Answering, Composition
from coe.engines.base import collect
from coe.errors import UpstreamError
from coe.progress import UNTOLD
from coe.routing import RoutingDecision
from coe.service.comments import Comments
from coe.service.decision import decision_headers
from coe.service.errors import InvalidRequest, ModelNotFound, answer_for
from coe.service.gateway import Gateway
from coe.service.notes import current_notes
from coe.service.reply import Header, send_body
from coe.service.telling import Telling
from coe.service.time_limit import TimeLimit
from coe.service.wire import ChatCall
from coe.types import Completion, Delta, Usage
from coe.wishes import Wish

_FAREWELL_S = 1.0
_STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(slots=True)
class Receipt:
    """What came of a request, as far as it has come."""

    experts: Sequence[str] = ()
    """Those decided on; then those who answered."""
    router: str = ""
    has_begun: bool = False
    """Whether an expert has begun to answer."""
    usage: Usage | None = None
    """None: nobody counted, or the answer did not come to its end."""
    shares: Sequence[tuple[str, Usage | None]] = ()
    """What each of several experts used of that; empty where one answered alone."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears the answer, how, and until when."""

    send: Send
    request_id: str
    headers: list[Header]
    """What the response will carry besides its own; grows with what is known."""
    in_time: TimeLimit
    telling: Telling
    aside: Send
    """For what is no part of the answer, and is not kept with it."""


@dataclass(slots=True, eq=False)
class Visit:
    """Serves one call. Raises every error that comes before the first byte."""

    gateway: Gateway
    composition: Composition
    """The one at the beginning of the request, whatever is loaded anew meanwhile."""
    call: ChatCall
    wish: Wish
    listener: Listener
    receipt: Receipt = field(default_factory=Receipt)
    comments: Comments | None = None
    """On the answer's progress; None: the client asked for none."""

    async def serve(self) -> None:
        began_s = time.perf_counter()
        decision = await self._decide()
        notes = current_notes()
        notes.decided(decision, decision.query_id, time.perf_counter() - began_s)
        notes.asks(self.call.generation.ask or "")
        self._traced(decision.experts)
        if self.call.is_streamed:
            if not self.call.control.wants_progress:
                await self._stream(decision)
                return
            listener = self.listener
            self.comments = Comments(listener.send, listener.aside, _stream_start())
            with self.comments.telling():
                await self._stream(decision)
            return
        async with self.listener.in_time(), self._answering(decision) as answer:
            self._begun(answer, decision)
            whole = await self._whole(answer)
        body = self.listener.telling.whole(whole, decision.query_id, self._model_of(answer))
        await send_body(self.listener.send, body)

    async def _decide(self) -> RoutingDecision:
        composition, call = self.composition, self.call
        routed_model = self.gateway.settings.model_name
        known = composition.pool.ids  # as an operator has left it
        if call.model != routed_model and call.model not in known:
            raise ModelNotFound(call.model, (routed_model, *known))
        pinned = None if call.model == routed_model else call.model
        self._check_wish(pinned)
        raw = call.generation.raw
        if call.complaint is not None and raw is not None:
            able = composition.passing(raw.route)
            if not able or (pinned is not None and pinned not in able):
                raise call.complaint
        if pinned is None and composition.decides_slowly:
            async with self.listener.in_time():
                return await asyncio.to_thread(composition.decide, call.generation, None, self.wish)
        return composition.decide(call.generation, pinned, self.wish)

    def _check_wish(self, pinned: str | None) -> None:
        experts = self.wish.experts
        if pinned is not None and experts is not None and pinned not in experts:
            raise InvalidRequest(
                f"the model {pinned!r} is none of those that may answer, {', '.join(experts)}; "
                f"name one of them, or {self.gateway.settings.model_name!r} to have one chosen",
                param="model",
            )

    def _answering(self, decision: RoutingDecision) -> AbstractAsyncContextManager[Answering]:
        """The answer, begun. Until then headers tell who was to give it, so that a failure names
        them, too.
        """
        self.listener.headers.extend(decision_headers(decision, self.wish.experts))
        self.receipt.experts, self.receipt.router = decision.experts, decision.router
        told = self.comments or UNTOLD
        return self.composition.answering(self.call.generation, decision, self.wish, told)

    def _begun(self, answer: Answering, decision: RoutingDecision) -> None:
        """From now on headers tell who gives the answer."""
        answered = answer.decision.experts
        self.receipt.has_begun, self.receipt.shares = True, answer.shares
        if answered != decision.experts:
            self.receipt.experts = answered
            headers = self.listener.headers
            told = {name for name, _ in decision_headers(decision)}
            headers[:] = [header for header in headers if header[0] not in told]
            headers.extend(decision_headers(answer.decision, self.wish.experts))
            self._traced([id_ for id_ in answered if id_ not in decision.experts])
        if self.gateway.feedback is not None:
            ask = self.call.generation.ask or ""
            self.gateway.feedback.remember(decision.query_id, ask, decision, answered)

    def _traced(self, expert_ids: Sequence[str]) -> None:
        """Whom a request wants: those decided on at once, and who joins them later."""
        if self.gateway.trace is not None and expert_ids:
            self.gateway.trace.add(expert_ids)

    def _model_of(self, answer: Answering) -> str:
        """The expert, where one answered alone."""
        experts = answer.decision.experts
        return experts[0] if len(experts) == 1 else self.gateway.settings.model_name

    async def _whole(self, answer: Answering) -> bytes | Completion:
        """The expert's own response where it is passed on, else what was said."""
        deltas = answer.deltas
        first = await anext(deltas)
        if first.raw:
            async for delta in deltas:
                self.receipt.usage = delta.usage or self.receipt.usage
            return first.raw
        said = await collect(answer.decision.experts[0], _after(first, deltas))
        self.receipt.usage = said.usage
        return said

    async def _stream(self, decision: RoutingDecision) -> None:
        """Sends no header before the first delta, so that what fails until then has a status; a
        client that wants to hear what happens meanwhile gets one with the first that does.

        What fails later becomes an error event, and the response is left without its end: the
        server then drops the connection, and nobody can take half an answer for a whole one.
        """
        listener, telling = self.listener, self.listener.telling
        comments, is_started = self.comments, False
        send = listener.send if comments is None else comments.send
        try:
            async with listener.in_time(), self._answering(decision) as answer:
                self._begun(answer, decision)
                async for delta in self._checked(answer):
                    events = telling.piece(delta) if is_started else b""
                    if not is_started:
                        begin = telling.begin(decision.query_id, self._model_of(answer))
                        await send(_stream_start())
                        is_started = True
                        events = begin + telling.piece(delta)
                    if events:
                        await send(_piece(events))
        except Exception as error:
            begin = b""
            if not is_started:
                if comments is None or not comments.has_begun:
                    raise
                begin = telling.begin(decision.query_id, self.gateway.settings.model_name)
            current_notes().failed(error)
            told = _piece(begin + telling.fail(answer_for(error, listener.request_id).envelope))
            with suppress(TimeoutError):
                # Whoever reads no more must not hold this request for ever.
                async with asyncio.timeout(_FAREWELL_S):
                    await send(told)
            return
        async with listener.in_time():
            await send({"type": "http.response.body", "body": telling.end()})

    async def _checked(self, answer: Answering) -> AsyncIterator[Delta]:
        """The answer without empty deltas, ending with a finish reason or raising."""
        is_whole = False
        async for delta in answer.deltas:
            if delta.finish_reason is not None:
                is_whole, self.receipt.usage = True, delta.usage
            if delta.says_something or delta.finish_reason is not None:
                yield delta
        if not is_whole:
            raise UpstreamError(answer.decision.experts[0], "the answer broke off before its end")


async def _after(first: Delta, deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in deltas:
        yield delta


def _stream_start() -> dict[str, object]:
    return {"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)}


def _piece(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
