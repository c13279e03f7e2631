"""OpenTelemetry spans of a request: the routing, every expert's call, the aggregation.

Off unless an OTLP endpoint is named in the environment and the extra is installed. Spans carry the
names and attributes of OpenTelemetry's conventions for HTTP and for generative AI, and nothing
that anybody wrote. Contexts are handed on by hand: an async generator may be closed in another
one than it was begun in, where OpenTelemetry's own could not be left.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.types import Scope

from coe.errors import install_hint
from coe.routing import RoutingDecision
from coe.service.notes import ABANDONED, RequestNotes, operation_of
from coe.service.reply import request_header
from coe.types import GenerationRequest, Usage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CARRIED = ("traceparent", "tracestate")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_SERVICE = "coe"
_NS = 1_000_000_000
_LOG = logging.getLogger(__name__)


def tracing_or_none(
    provider_of: Callable[[str], str], environment: Mapping[str, str] = os.environ
) -> Tracing | None:
    """What the environment asks for; None: nothing, or the extra is not installed.

    OpenTelemetry reads its other variables itself. Close it at the end.
    """
    if not any(environment.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _LOG.warning("no traces are sent: %s has what is missing", install_hint("otel"))
        return None
    name = environment.get("OTEL_SERVICE_NAME") or _SERVICE
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("coe"), provider_of, provider.shutdown)


class Tracing:
    """Makes the spans of requests."""

    def __init__(
        self,
        tracer: Tracer,
        provider_of: Callable[[str], str] = lambda expert_id: "coe",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`provider_of`: what OpenTelemetry is to know an expert's server as."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.tracer = tracer
        self.provider_of = provider_of
        self.propagator = TraceContextTextMapPropagator()
        self.close = close
        """Sends what is left. Blocks for as long as that takes, some seconds at most."""

    def request(self, scope: Scope, route: str) -> TracedRequest:
        """Begins a request's span, below the client's own if it told of one."""
        told = {name: request_header(scope, name.encode()) for name in _CARRIED}
        carrier = {name: value.decode("latin-1") for name, value in told.items() if value}
        return TracedRequest(self, self.propagator.extract(carrier), scope["method"], route)


class TracedRequest:
    """One request's span and those below it. Meets `coe.service.notes.RequestSpan`."""

    def __init__(self, tracing: Tracing, parent: Context, method: str, route: str) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracing = tracing
        # A method that HTTP does not know is the client's own word.
        method = (
            method if method in ("GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS") else "_OTHER"
        )
        attributes = {"http.request.method": method, "http.route": route}
        name = f"{method} {route}"
        self._span = tracing.tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        self._context = set_span_in_context(self._span, parent)

    def decided(self, decision: RoutingDecision, seconds: float) -> None:
        ended_ns = time.time_ns()
        attributes = {"coe.router": decision.router, "coe.experts": decision.experts}
        began_ns = ended_ns - int(seconds * _NS)
        span = self._tracing.tracer.start_span(
            "route", self._context, attributes=attributes, start_time=began_ns
        )
        span.end(ended_ns)

    def call(self, expert_id: str, request: GenerationRequest) -> TracedCall:
        from opentelemetry.trace import SpanKind, set_span_in_context

        operation = operation_of(request)
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self._tracing.provider_of(expert_id),
            "gen_ai.request.model": expert_id,
        }
        if request.params.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = request.params.max_tokens
        name = f"{operation} {expert_id}"
        span = self._tracing.tracer.start_span(name, self._context, SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        self._tracing.propagator.inject(carrier, set_span_in_context(span, self._context))
        return TracedCall(span, tuple(carrier.items()))

    @contextmanager
    def aggregation(self, expert_ids: Sequence[str]) -> Iterator[None]:
        span = self._tracing.tracer.start_span(
            "aggregate", self._context, attributes={"coe.experts": tuple(expert_ids)}
        )
        try:
            yield
        finally:
            span.end()

    def ended(self, notes: RequestNotes, status: int, failure: str | None) -> None:
        span = self._span
        span.set_attribute("http.response.status_code", status)
        if notes.decision is not None:
            span.set_attribute("coe.decision_id", notes.decision_id)
        _finish(span, notes.usage, failure if status >= 500 or status < 400 else None)


class TracedCall:
    """One expert's span."""

    def __init__(self, span: Span, headers: tuple[tuple[str, str], ...]) -> None:
        self._span = span
        self.headers = headers

    def ended(self, usage: Usage | None, reason: str | None, failure: str | None) -> None:
        if reason is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", (reason,))
        _finish(self._span, usage, failure)


def _finish(span: Span, usage: Usage | None, failure: str | None) -> None:
    from opentelemetry.trace import StatusCode

    if usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
    if failure == ABANDONED:
        span.set_attribute("coe.abandoned", True)
    elif failure is not None:
        span.set_attribute("error.type", failure)
        span.set_status(StatusCode.ERROR)
    span.end()
