"""What is logged of requests, and above all what is not."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from starlette.types import Receive, Scope, Send

from coe.composition import Composition
from coe.engines.openai import OpenAIEngine
from coe.experts import Expert, OpenAISpec
from coe.routing import RoutingDecision
from coe.service.app import gateway_app
from coe.service.gateway import Gateway
from coe.service.metrics import GatewayMetrics
from coe.service.notes import notes_of
from coe.service.observing import Observed
from coe.service.request_log import LOGGER, JsonLines, RequestLog, write_json_lines
from coe.types import Usage

CHAT = "/v1/chat/completions"
Compose = Callable[..., Composition]


class Lines:
    """What was logged, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.all if line["logger"] == LOGGER]


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines, logger = Lines(), logging.getLogger("coe")
    before = logger.level, logger.propagate
    handler = write_json_lines(lines.stream)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


def ask(text: str, model: str = "coe", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


class Decided:
    """An app that decides and answers, and asks what is noted to be kept."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        notes = notes_of(scope)
        notes.asks("what is secret?")
        notes.decided(RoutingDecision("q", ("a",), {}, "fixed", ()), "d-1", 0.0015)
        notes.answered, notes.usage = ("b",), Usage(3, 4)
        scope["coe.request_id"] = "r-1"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def test_log_line_tells_a_request_by_its_outline(lines: Lines) -> None:
    async with client_of(Observed(Decided(), GatewayMetrics(), RequestLog())) as client:
        await client.post(CHAT, json={})
    [line] = lines.requests
    assert 0 <= line.pop("duration_ms") < 5000
    assert 0 <= line.pop("upstream_ms") < 5000
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": LOGGER,
        "message": "request",
        "request_id": "r-1",
        "route": CHAT,
        "status": 200,
        "decision_id": "d-1",
        "router": "fixed",
        "expert": "b",
        "routing_ms": 1.5,
        "prompt_tokens": 3,
        "completion_tokens": 4,
    }


async def test_log_keeps_prompts_only_when_asked(lines: Lines) -> None:
    for log in (RequestLog(), RequestLog(keeps_prompts=True)):
        async with client_of(Observed(Decided(), GatewayMetrics(), log)) as client:
            await client.post(CHAT, json={})
    assert [line.get("prompt") for line in lines.requests] == [None, "what is secret?"]


async def test_log_of_a_gateway_names_requests_and_failures(lines: Lines, compose: Compose) -> None:
    app = gateway_app(Gateway(compose(), log=RequestLog()))
    async with client_of(app) as client:
        ok = await client.post(CHAT, json=ask("sums: 1 + 2"), headers={"x-request-id": "mine"})
        await client.post(CHAT, json=ask("hi", "broken"))
        await client.get("/healthz")
        assert ok.status_code == 200
    first, second = lines.requests
    assert (first["request_id"], first["status"], "failure" in first) == ("mine", 200, False)
    assert first["completion_tokens"] == 5
    assert (second["status"], second["failure"]) == (502, "upstream_error")


async def test_planted_canaries_surface_nowhere(
    lines: Lines, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt, an answer's bound, a client's key, an upstream's key and its address."""
    monkeypatch.setenv("FAR_API_KEY", "upstream-key-canary")
    # A port of this machine that nobody listens on: 1 is reserved.
    spec = OpenAISpec(base_url="http://127.0.0.1:1/canary-path", api_key_env="FAR_API_KEY")
    far = OpenAIEngine(Expert("far", spec))
    app = gateway_app(Gateway(compose({"far": far}), log=RequestLog()))
    told = []
    async with client_of(app) as client:
        for fields in ({}, {"stream": True}, {"user": "prompt-canary"}):
            response = await client.post(
                CHAT,
                json=ask("prompt-canary", **fields),
                headers={"authorization": "Bearer client-key-canary"},
            )
            assert response.status_code == 502
            told.append(response.text)
        told.append((await client.post(CHAT, json=ask("hi", "model-canary"))).text)
    await far.stop(1.0)
    async with client_of(app) as client:
        scraped = (await client.get("/metrics")).text
    requests = json.dumps(lines.requests)
    everything = lines.stream.getvalue()
    for secret in ("prompt-canary", "client-key-canary", "upstream-key-canary"):
        assert secret not in everything
        assert secret not in scraped + "".join(told)
    # Where an expert is, is the operator's to know: it is in the log of failures and nowhere else.
    for public in (requests, scraped, *told):
        assert "127.0.0.1" not in public
        assert "canary-path" not in public
    assert len(lines.requests) == 4


def test_json_lines_survive_whatever_is_logged() -> None:
    record = logging.LogRecord("coe", logging.ERROR, "f.py", 1, "a\n%s \ud800", ("b",), None)
    try:
        raise ValueError("why")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "a\nb ?"
    assert line["traceback"].endswith("ValueError: why")
