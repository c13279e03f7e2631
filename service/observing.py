"""Watches every HTTP request from the outside: how long it took, and what became of it."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coe.service.metrics import OPERATIONS, GatewayMetrics
from coe.service.notes import ABANDONED, UNFINISHED, RequestNotes, put_notes
from coe.service.request_log import RequestLog
from coe.service.tracing import Tracing
from coe.telemetry import watched_by

CLIENT_LEFT = 499
"""Told as the status where the client left before there was one; nginx calls it so, too."""
_ROUTES = frozenset(
    {
        *OPERATIONS,
        "/v1/route",
        "/v1/models",
        "/v1/feedback",
        "/v1/files",
        "/v1/batches",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
)
_OTHER = "other"
_COMMENT = b":"
"""Of server-sent events: no part of the answer."""
_clock = time.perf_counter


def route_of(path: str) -> str:
    """One of few names: the rest of a path is the client's own."""
    if path in _ROUTES:
        return path
    parent = "/".join(path.split("/", 3)[:3])
    return parent if parent in _ROUTES and path.startswith("/v1/") else _OTHER


class Observed:
    """The outermost of all: measures, traces and logs what goes through it, and changes nothing."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: GatewayMetrics,
        log: RequestLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = route_of(scope["path"])
        span = None if self._tracing is None else self._tracing.request(scope, route)
        wants_prompt = self._log is not None and self._log.keeps_prompts
        notes = RequestNotes(route, self._metrics, span, wants_prompt)
        put_notes(scope, notes)
        exchange = _Exchange(receive, send)
        self._metrics.began(route)
        try:
            with watched_by(notes):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._tell(scope, notes, exchange)

    def _tell(self, scope: Scope, notes: RequestNotes, exchange: _Exchange) -> None:
        metrics, route = self._metrics, notes.route
        seconds = _clock() - exchange.began_s
        status = exchange.status or (CLIENT_LEFT if exchange.is_client_gone else 500)
        failure = _failure(notes, status, exchange)
        metrics.ended(route, status, seconds, notes.expert, failure)
        if failure is not None and failure != ABANDONED:
            metrics.failed(route, failure, notes.is_refused)
        if notes.decision is not None and notes.routing_s is not None:
            metrics.decided(notes.routing_s, notes.decision.experts)
            metrics.spent(route, max(0.0, seconds - notes.upstream.seconds))
        first_s = exchange.first_s
        if first_s is not None and failure is None:
            metrics.first_byte(route, first_s, notes.expert)
            n_tokens = 0 if notes.usage is None else notes.usage.completion_tokens
            if n_tokens > 1:
                metrics.paced(route, (seconds - first_s) / (n_tokens - 1), notes.expert)
        if notes.span is not None:
            notes.span.ended(notes, status, failure)
        if self._log is not None:
            request_id = scope.get("coe.request_id", "")
            self._log.add(notes, request_id, (status, failure), seconds, first_s)


class _Exchange:
    """What was said on the wire, by its outline."""

    __slots__ = (
        "_receive",
        "_send",
        "began_s",
        "first_s",
        "is_client_gone",
        "is_finished",
        "status",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.began_s = _clock()
        self.status = 0
        self.first_s: float | None = None
        """Until the first piece of a streamed response; None: it was not streamed."""
        self.is_finished = False
        self.is_client_gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_client_gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("more_body", False):
            body = message.get("body")
            if self.first_s is None and body and not body.startswith(_COMMENT):
                self.first_s = _clock() - self.began_s
        else:
            self.is_finished = True
        await self._send(message)


def _failure(notes: RequestNotes, status: int, exchange: _Exchange) -> str | None:
    """None: the client was told all that it asked for."""
    if exchange.is_finished:
        return None if status < 400 else notes.failure or str(status)
    if exchange.is_client_gone:
        return ABANDONED
    return notes.failure or UNFINISHED
