"""Spans of requests, caught in memory, and the trace that goes on to an expert's server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import ASGIApp, Receive, Scope, Send

from coe.composition import Composition
from coe.engines.openai import OpenAIEngine
from coe.errors import UpstreamError
from coe.experts import Expert, OpenAISpec
from coe.routing import RoutingDecision
from coe.service.app import gateway_app
from coe.service.gateway import Gateway
from coe.service.metrics import GatewayMetrics
from coe.service.notes import notes_of
from coe.service.observing import Observed
from coe.service.tracing import Tracing, tracing_or_none
from coe.types import Delta, GenerationRequest

CHAT = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
Compose = Callable[..., Composition]


class Caught:
    """A tracing whose spans stay here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider.get_tracer("test"), lambda expert_id: "scripted")

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        assert len({span.name for span in spans}) == len(spans)
        return {span.name: span for span in spans}

    def watched(self, app: ASGIApp) -> httpx.AsyncClient:
        return _client(Observed(app, GatewayMetrics(), tracing=self.tracing))

    def gateway(self, composition: Composition) -> httpx.AsyncClient:
        return _client(gateway_app(Gateway(composition, tracing=self.tracing)))


def _client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


@pytest.fixture
def caught() -> Caught:
    return Caught()


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}], **fields}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_spans_of_a_request_follow_the_conventions(caught: Caught, compose: Compose) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    async with caught.gateway(compose()) as client:
        response = await client.post(CHAT, json=ask("sums: 12 + 30"), headers=headers)
        assert response.status_code == 200
    request, call = caught.spans[f"POST {CHAT}"], caught.spans["chat sums"]
    assert request.kind is SpanKind.SERVER
    assert call.kind is SpanKind.CLIENT
    assert f"{request.context.trace_id:032x}" == TRACE
    assert parent_id(request) == int(PARENT, 16)
    assert parent_id(call) == request.context.span_id
    assert attributes(call) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "sums",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.output_tokens": 5,
    }
    assert attributes(request)["http.response.status_code"] == 200
    assert attributes(request)["http.route"] == CHAT


async def test_spans_of_recruited_experts_lie_side_by_side(
    caught: Caught, compose: Compose, fakes: Any, whole: tuple[Delta, ...]
) -> None:
    engines = {name: fakes.line(name, whole) for name in ("a", "b")}
    async with caught.gateway(compose(engines, k=2)) as client:
        assert (await client.post(CHAT, json=ask("a b"))).status_code == 200
    spans = caught.spans
    request = spans[f"POST {CHAT}"].context.span_id
    assert [parent_id(spans[name]) for name in ("chat a", "chat b", "aggregate")] == [request] * 3
    assert attributes(spans["aggregate"])["coe.experts"] == ("a", "b")


async def test_span_of_an_expert_that_failed_is_an_error_and_the_request_none(
    caught: Caught, compose: Compose, fakes: Any, whole: tuple[Delta, ...]
) -> None:
    engines = {
        "down": fakes.line("down", [UpstreamError("down", "a secret")]),
        "up": fakes.line("up", whole),
    }
    async with caught.gateway(compose(engines)) as client:
        await client.post(CHAT, json=ask("down, please"))
    spans = caught.spans
    assert spans["chat down"].status.status_code is StatusCode.ERROR
    assert attributes(spans["chat down"])["error.type"] == "upstream_error"
    assert spans["chat up"].status.status_code is StatusCode.UNSET
    assert spans[f"POST {CHAT}"].status.status_code is StatusCode.UNSET
    assert "secret" not in "".join(span.to_json() for span in spans.values())


async def test_clients_mistake_is_no_error_of_the_server(caught: Caught, compose: Compose) -> None:
    async with caught.gateway(compose()) as client:
        await client.post(CHAT, json=ask("hi") | {"model": "nobody"})
        await client.request("CANARY", "/v1/models")
    spans = caught.spans
    assert attributes(spans[f"POST {CHAT}"])["http.response.status_code"] == 404
    assert spans[f"POST {CHAT}"].status.status_code is StatusCode.UNSET
    assert "_OTHER /v1/models" in spans


async def test_experts_server_is_told_of_the_trace(
    caught: Caught, compose: Compose, fakes: Any, whole: tuple[Delta, ...]
) -> None:
    asked: list[GenerationRequest] = []

    class Listening(fakes.line):  # type: ignore[misc]
        def stream(self, request: GenerationRequest) -> Any:
            asked.append(request)
            return super().stream(request)

    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    async with caught.gateway(compose({"a": Listening("a", whole)})) as client:
        await client.post(CHAT, json=ask("a"), headers=headers)
    span_id = caught.spans["chat a"].context.span_id
    assert dict(asked[0].trace) == {
        "traceparent": f"00-{TRACE}-{span_id:016x}-01",
        "tracestate": "vendor=1",
    }


async def test_traceparent_arrives_at_an_experts_server(caught: Caught, compose: Compose) -> None:
    told: list[str | None] = []

    async def complete(request: web.Request) -> web.Response:
        told.append(request.headers.get("traceparent"))
        message = {"role": "assistant", "content": "hi"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    served = web.Application()
    served.router.add_post("/v1/chat/completions", complete)
    async with TestServer(served) as server:
        engine = OpenAIEngine(Expert("far", OpenAISpec(str(server.make_url("/v1")))))
        async with caught.gateway(compose({"far": engine})) as client:
            assert (await client.post(CHAT, json=ask("hi"))).status_code == 200
        await engine.stop(1.0)
    call = caught.spans["chat far"].context
    [traceparent] = told
    # The flags after it say that it is sampled, and that it is random.
    assert (traceparent or "").startswith(f"00-{call.trace_id:032x}-{call.span_id:016x}-")


async def test_routing_is_a_span_as_long_as_it_took(caught: Caught) -> None:
    async def decides(scope: Scope, receive: Receive, send: Send) -> None:
        notes_of(scope).decided(RoutingDecision("q", ("a",), {}, "fixed", ()), "d", 0.25)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async with caught.watched(decides) as client:
        await client.post(CHAT, json={})
    route = caught.spans["route"]
    assert parent_id(route) == caught.spans[f"POST {CHAT}"].context.span_id
    assert (route.end_time or 0) - (route.start_time or 0) == 250_000_000
    assert attributes(route) == {"coe.router": "fixed", "coe.experts": ("a",)}


def test_tracing_is_off_without_an_endpoint() -> None:
    assert tracing_or_none(lambda expert_id: "coe", {}) is None
    assert tracing_or_none(lambda expert_id: "coe", {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None


@pytest.fixture
def switched_on() -> Iterator[Tracing]:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    tracing = tracing_or_none(lambda expert_id: "coe", environment)
    assert tracing is not None
    yield tracing
    tracing.close()


def test_tracing_is_on_with_an_endpoint(switched_on: Tracing) -> None:
    assert switched_on.tracer is not None
