"""What `GET /metrics` tells of a gateway that was used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.errors import QueueFull, UpstreamError
from coe.routing import RoutingDecision
from coe.service.app import create_app
from coe.service.metrics import GatewayMetrics, MetricsRoute, PoolMetrics
from coe.service.notes import notes_of
from coe.service.observing import CLIENT_LEFT, Observed, route_of
from coe.types import Delta

CHAT = "/v1/chat/completions"
Compose = Callable[..., Composition]
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Gateway:
    """A gateway that is watched, in this process."""

    def __init__(self, composition: Composition) -> None:
        self.app = create_app(composition)

    def client(self) -> httpx.AsyncClient:
        return client_of(self.app)

    async def scrape(self, accept: str = "") -> httpx.Response:
        async with self.client() as client:
            return await client.get("/metrics", headers={"accept": accept})

    async def samples(self) -> Samples:
        return read((await self.scrape()).text)


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Of the sample with exactly these labels and those that are empty."""
    found = [
        number
        for (told, given), number in samples.items()
        if told == name and {k: v for k, v in given if v} == labels
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "coe", "messages": [{"role": "user", "content": text}], **fields}


def called(expert: str, **more: str) -> dict[str, str]:
    return {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "scripted",
        "gen_ai_request_model": expert,
        **more,
    }


def served(expert: str, **more: str) -> dict[str, str]:
    return {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "coe",
        "gen_ai_response_model": expert,
        **more,
    }


@pytest.fixture
def gateway(compose: Compose) -> Gateway:
    return Gateway(compose())


async def test_metrics_tell_requests_calls_and_tokens(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for _ in range(2):
            assert (await client.post(CHAT, json=ask("sums: 12 + 30"))).status_code == 200
    samples = await gateway.samples()
    assert value(samples, "coe_requests_total") == 2
    assert value(samples, "coe_expert_answers_total", expert="sums") == 2
    assert value(samples, "coe_expert_tokens_total", expert="sums", type="output") == 10
    name = "coe_http_request_duration_seconds_count"
    assert value(samples, name, route=CHAT, status="200") == 2
    assert value(samples, "coe_http_requests_in_flight", route=CHAT) == 0
    assert value(samples, "gen_ai_server_request_duration_seconds_count", **served("sums")) == 2
    assert value(samples, "gen_ai_client_operation_duration_seconds_count", **called("sums")) == 2
    usage = called("sums", gen_ai_token_type="output")
    assert value(samples, "gen_ai_client_token_usage_sum", **usage) == 10
    # Each answer has five tokens: not one with four or fewer.
    assert value(samples, "gen_ai_client_token_usage_bucket", **usage, le="4.0") == 0
    assert value(samples, "gen_ai_client_token_usage_bucket", **usage, le="16.0") == 2


async def test_metrics_time_the_first_piece_of_streams_alone(gateway: Gateway) -> None:
    name = "gen_ai_server_time_to_first_token_seconds_count"
    async with gateway.client() as client:
        await client.post(CHAT, json=ask("sums: 12 + 30"))
        assert not any(told == name for told, _ in await gateway.samples())
        await client.post(CHAT, json=ask("sums: 12 + 30", stream=True))
    samples = await gateway.samples()
    assert value(samples, name, **served("sums")) == 1
    name = "gen_ai_server_time_per_output_token_seconds_count"
    assert value(samples, name, **served("sums")) == 1
    name = "gen_ai_client_operation_time_to_first_chunk_seconds_count"
    assert value(samples, name, **called("sums")) == 2


async def test_metrics_tell_failures_and_refusals_apart(fakes: Any, compose: Compose) -> None:
    engines = {
        "down": fakes.line("down", [UpstreamError("down", "refused")]),
        "full": fakes.line("full", [QueueFull("full", 1.0)]),
    }
    gateway = Gateway(compose(engines))
    async with gateway.client() as client:
        assert (await client.post(CHAT, json=ask("hi", model="down"))).status_code == 502
        assert (await client.post(CHAT, json=ask("hi", model="full"))).status_code == 429
        assert (await client.post(CHAT, json=ask("hi", model="nobody"))).status_code == 404
    samples = await gateway.samples()
    assert value(samples, "coe_errors_total", route=CHAT, kind="upstream_error") == 1
    assert value(samples, "coe_errors_total", route=CHAT, kind="model_not_found") == 1
    assert value(samples, "coe_refusals_total", route=CHAT, kind="queue_full") == 1
    failed = called("down", error_type="upstream_error")
    assert value(samples, "gen_ai_client_operation_duration_seconds_count", **failed) == 1
    name = "coe_expert_failures_total"
    assert value(samples, name, expert="full", kind="queue_full") == 1


async def test_metrics_of_a_failover_name_who_answered(
    fakes: Any, compose: Compose, whole: tuple[Delta, ...]
) -> None:
    engines = {
        "down": fakes.line("down", [UpstreamError("down", "refused")]),
        "up": fakes.line("up", whole),
    }
    gateway = Gateway(compose(engines))
    async with gateway.client() as client:
        assert (await client.post(CHAT, json=ask("down, please"))).status_code == 200
    samples = await gateway.samples()
    assert value(samples, "coe_expert_failovers_total", expert="down") == 1
    assert value(samples, "gen_ai_server_request_duration_seconds_count", **served("up")) == 1


async def test_metrics_of_a_broken_stream_are_a_failure(
    fakes: Any, compose: Compose, whole: tuple[Delta, ...]
) -> None:
    line = [*whole[:1], UpstreamError("cut", "gone")]
    gateway = Gateway(compose({"cut": fakes.line("cut", line)}))
    async with gateway.client() as client:
        # The client in this process insists on a response's end, which this one has not.
        with suppress(AssertionError):
            await client.post(CHAT, json=ask("hi", stream=True))
    samples = await gateway.samples()
    failed = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "coe"}
    name = "gen_ai_server_request_duration_seconds_count"
    assert value(samples, name, **failed, error_type="upstream_error") == 1
    http = "coe_http_request_duration_seconds_count"
    assert value(samples, http, route=CHAT, status="200") == 1
    assert value(samples, "coe_errors_total", route=CHAT, kind="upstream_error") == 1


async def test_metrics_hold_nothing_a_client_wrote(gateway: Gateway) -> None:
    canary = "canary-7f3a"
    headers = {"authorization": f"Bearer {canary}", "x-request-id": canary}
    async with gateway.client() as client:
        await client.post(CHAT, json=ask(f"sums: {canary}", user=canary), headers=headers)
        await client.post(CHAT, json=ask("hi", model=canary))
        await client.get(f"/v1/models/{canary}", headers=headers)
        await client.get(f"/{canary}/{canary}")
        await client.request(canary.upper(), "/v1/models")
    text = (await gateway.scrape()).text
    assert canary not in text.lower()
    assert 'route="other"' in text
    assert 'route="/v1/models"' in text


async def test_metrics_come_in_both_formats(gateway: Gateway) -> None:
    plain = await gateway.scrape()
    assert plain.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(plain.text)}
    openly = await gateway.scrape("application/openmetrics-text; version=1.0.0")
    assert openly.headers["content-type"].startswith("application/openmetrics-text")
    told = read_openmetrics(openly.text)  # type: ignore[no-untyped-call]
    assert {family.name for family in told} == names


async def test_metrics_follow_the_naming_conventions(gateway: Gateway) -> None:
    async with gateway.client() as client:
        await client.post(CHAT, json=ask("sums: 12 + 30"))
    for family in text_string_to_metric_families((await gateway.scrape()).text):
        assert family.name.startswith(("coe_", "gen_ai_")), family.name
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_gib", "_total")), family.name


class Deciding:
    """An app that decides, waits for an expert, and answers."""

    def __init__(self, expert_s: float) -> None:
        self._expert_s = expert_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        notes = notes_of(scope)
        notes.decided(RoutingDecision("q", ("a", "b"), {}, "fixed", ()), "d", 0.002)
        notes.upstream.enter()
        await asyncio.sleep(self._expert_s)
        notes.upstream.leave()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def test_metrics_tell_decisions_and_overhead(compose: Compose) -> None:
    metrics = GatewayMetrics()
    async with client_of(Observed(Deciding(0.05), metrics)) as client:
        await client.post(CHAT, json={})
    async with client_of(MetricsRoute(PoolMetrics(compose, metrics))) as client:
        samples = read((await client.get("/metrics")).text)
    assert value(samples, "coe_decisions_total", expert="a") == 1
    assert value(samples, "coe_decisions_total", expert="b") == 1
    assert value(samples, "coe_routing_seconds_sum") == pytest.approx(0.002)
    assert value(samples, "coe_gateway_overhead_seconds_count", route=CHAT) == 1
    assert value(samples, "coe_gateway_overhead_seconds_sum", route=CHAT) < 0.045


async def test_client_that_leaves_before_the_answer_is_no_failure(compose: Compose) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def unheard(message: object) -> None:
        raise AssertionError("nobody is there")

    metrics = GatewayMetrics()
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
    await Observed(waits, metrics)(scope, gone, unheard)
    async with client_of(MetricsRoute(PoolMetrics(compose, metrics))) as client:
        samples = read((await client.get("/metrics")).text)
    name = "coe_http_request_duration_seconds_count"
    assert value(samples, name, route=CHAT, status=str(CLIENT_LEFT)) == 1
    assert not any(told == "coe_errors_total" for told, _ in samples)


def test_every_route_of_the_gateway_has_a_name(compose: Compose) -> None:
    paths = [route.path for route in create_app(compose()).routes if isinstance(route, Route)]
    assert len(paths) > 5
    assert [path for path in paths if route_of(path) == "other"] == []


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/models/lands/capitals", "/v1/models"),
        ("/v1/batches/b1/cancel", "/v1/batches"),
        ("/v1/chat/completions/x", "other"),
        ("/v1", "other"),
        ("/", "other"),
        ("", "other"),
        ("/healthz", "/healthz"),
        ("/healthz/x", "other"),
    ],
)
def test_route_is_one_of_few_names(path: str, route: str) -> None:
    assert route_of(path) == route
