from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from coe.composition import Composition, Conduct
from coe.engines.base import EngineState
from coe.engines.scripted import ScriptedEngine
from coe.errors import ConfigError, QueueFull, StartupError, UpstreamError, UpstreamTimeout
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.service.app import create_app
from coe.service.catalog import Health
from coe.service.middleware import Envelope
from coe.service.settings import ServiceSettings
from coe.types import Delta, Query

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def ask(text: str, model: str = "coe", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def test_chat_routes_and_answers(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums: what is 12 + 30?"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "sums"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "12 plus 30 it is", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 5, "total_tokens": 11}


async def test_chat_headers_tell_the_decision(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("lands/capitals of Peru"))
    assert response.headers["x-coe-expert"] == "lands/capitals"
    assert response.headers["x-coe-router"] == "named/top-1"
    assert response.headers["x-coe-scores"] == "lands/capitals=1,sums=0,faulty=0,broken=0"
    assert response.json()["id"] == f"chatcmpl-{response.headers['x-coe-decision-id']}"


async def test_chat_pins_the_named_expert(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums: 12 + 30", model="lands/capitals"))
    assert response.json()["choices"][0]["message"]["content"] == "Lima"
    assert response.headers["x-coe-expert"] == "lands/capitals"
    assert response.headers["x-coe-router"] == "pinned"
    assert response.headers["x-coe-decision-id"]
    assert "x-coe-scores" not in response.headers


async def test_chat_honours_max_tokens(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums: 1 + 2", max_tokens=2))
    choice = response.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("1 plus", "length")


async def test_chat_names_every_recruited_expert(compose: Any, fakes: Any, whole: Any) -> None:
    engines = {"a": fakes.line("a", whole), "b": fakes.line("b", whole)}
    async with client_of(create_app(compose(engines, k=2))) as client:
        response = await client.post(CHAT, json=ask("b first"))
    assert response.headers["x-coe-expert"] == "b,a"
    assert response.json()["model"] == "coe"
    assert response.json()["usage"]["completion_tokens"] == 4


async def test_chat_headers_carry_any_expert_id(compose: Any, fakes: Any, whole: Any) -> None:
    engines = {"é\r\nx: y": fakes.line("é", whole)}
    async with client_of(create_app(compose(engines))) as client:
        response = await client.post(CHAT, json=ask("hi"))
    assert response.headers["x-coe-expert"] == "%C3%A9%0D%0Ax: y"


async def test_chat_survives_text_that_utf8_cannot_carry(
    compose: Any, fakes: Any, whole: Any
) -> None:
    app = create_app(compose({"a": fakes.line("a", (Delta("\ud800"), *whole))}))
    async with client_of(app) as client:
        plain = await client.post(CHAT, json=ask("hi"))
        streamed = await client.post(CHAT, json=ask("hi", stream=True))
    assert plain.json()["choices"][0]["message"]["content"] == "?one two"
    assert '"content":"?"' in streamed.text


async def test_chat_refuses_an_unknown_model(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("hi", model="sumz"))
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "sums" in error["message"]


async def test_chat_refuses_an_overlong_prompt(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums " * 80, model="sums"))
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_chat_routes_an_overlong_prompt_to_a_longer_context(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post(CHAT, json=ask("sums " * 80))
    assert response.status_code == 200
    assert response.headers["x-coe-expert"] != "sums"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamError("a", "secret"), 502, "upstream_error"),
        (UpstreamTimeout("a", 3), 504, "upstream_timeout"),
        (StartupError("a", "secret"), 503, "expert_unavailable"),
        (QueueFull("busy", 7), 429, "queue_full"),
        (ValueError("secret"), 500, "internal_error"),
    ],
)
async def test_chat_tells_a_failure_before_the_first_text_by_its_status(
    compose: Any, fakes: Any, error: Exception, status: int, code: str, stream: bool
) -> None:
    line = (Delta(), error)
    async with client_of(create_app(compose({"a": fakes.line("a", line)}))) as client:
        response = await client.post(CHAT, json=ask("hi", stream=stream))
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert "secret" not in response.text
    assert response.headers["x-coe-expert"] == "a"
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_calls_an_answer_without_an_end_a_failure(
    compose: Any, fakes: Any, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    async with client_of(create_app(compose({"a": fakes.line("a", ())}))) as client:
        response = await client.post(CHAT, json=ask("hi", stream=stream))
    assert response.status_code == 502
    assert "expert 'a' failed" in error_of(response)["message"]
    assert "broke off" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_gives_up_at_the_request_timeout(compose: Any, fakes: Any, stream: bool) -> None:
    engine = fakes.hanging("a", 0)
    app = create_app(compose({"a": engine}), ServiceSettings(request_timeout_s=0.02))
    async with client_of(app) as client:
        response = await client.post(CHAT, json=ask("hi", stream=stream))
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert engine.cancelled == 1


@pytest.mark.parametrize(
    ("headers", "n_read"),
    [(JSON, 3), (JSON | {"content-length": "100000"}, 0)],
    ids=["grown", "announced"],
)
async def test_chat_reads_no_more_of_a_body_once_it_is_too_large(
    compose: Any, headers: dict[str, str], n_read: int
) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 100

    app = create_app(compose(), ServiceSettings(max_body_bytes=250))
    async with client_of(app) as client:
        small = await client.post(CHAT, json=ask("sums"))
        large = await client.post(CHAT, content=endless(), headers=headers)
    assert small.status_code == 200
    assert large.status_code == 413
    assert error_of(large)["code"] == "request_too_large"
    assert read == n_read


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/x-www-form-urlencoded", "text/plain;application/json", "text/json"],
)
async def test_chat_refuses_what_a_web_page_may_send_unasked(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post(CHAT, content=json.dumps(ask("sums")), headers=headers)
    assert response.status_code == 415
    error = error_of(response)
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_media_type")
    assert "-H 'content-type: application/json'" in error["message"]
    assert (await client.get("/readyz")).json()["experts"]["sums"] == "stopped"


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"]
)
async def test_chat_takes_json_with_parameters(
    client: httpx.AsyncClient, content_type: str
) -> None:
    headers = {"content-type": content_type}
    response = await client.post(CHAT, content=json.dumps(ask("sums")), headers=headers)
    assert response.status_code == 200


async def test_a_web_page_is_not_granted_a_preflight(client: httpx.AsyncClient) -> None:
    asked = {
        "origin": "http://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    response = await client.options(CHAT, headers=asked)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def composed(scorer: Any, decides_slowly: bool = False) -> Composition:
    pool = ExpertPool((Expert("a", ScriptedSpec()),))
    engines = {"a": ScriptedEngine(pool.experts[0])}
    return Composition(
        Router(scorer, TopK(1), pool), engines, conduct=Conduct(decides_slowly=decides_slowly)
    )


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/readyz")])
async def test_gateway_answers_others_while_it_decides_slowly(
    fakes: Any, method: str, path: str
) -> None:
    asked, released = threading.Event(), threading.Event()
    scorer = fakes.scorer(("a",))

    def score(queries: Sequence[Query]) -> FloatArray:
        asked.set()
        assert released.wait(5)
        return np.ones((len(queries), 1))

    scorer.score = score
    async with client_of(create_app(composed(scorer, decides_slowly=True))) as client:
        body = ask("hi") if method == "POST" else None
        deciding = asyncio.create_task(client.request(method, path, json=body))
        assert await asyncio.to_thread(asked.wait, 5)
        alive = await client.get("/healthz")
        assert not deciding.done()
        released.set()
        response = await deciding
    assert (alive.status_code, response.status_code) == (200, 200)


async def test_slow_decision_ends_at_the_request_timeout(fakes: Any) -> None:
    released = threading.Event()
    scorer = fakes.scorer(("a",))
    scorer.score = lambda queries: np.full((len(queries), 1), float(released.wait(5)))
    app = create_app(composed(scorer, decides_slowly=True), ServiceSettings(request_timeout_s=0.02))
    async with client_of(app) as client:
        response = await client.post(CHAT, json=ask("hi"))
    assert not released.is_set()
    released.set()
    assert error_of(response)["code"] == "deadline_exceeded"


@pytest.mark.parametrize("decides_slowly", [False, True])
async def test_decision_takes_a_thread_only_where_it_is_slow(
    fakes: Any, decides_slowly: bool
) -> None:
    threads: list[bool] = []
    scorer = fakes.scorer(("a",))

    def score(queries: Sequence[Query]) -> FloatArray:
        threads.append(threading.current_thread() is not threading.main_thread())
        return np.ones((len(queries), 1))

    scorer.score = score
    async with client_of(create_app(composed(scorer, decides_slowly))) as client:
        await client.post(CHAT, json=ask("hi"))
        await client.get("/readyz")
    assert threads == [decides_slowly] * 2


@pytest.mark.parametrize("given", ["abc-1", "x" * 128, "a/b=c;d"])
async def test_request_id_is_the_clients_own(client: httpx.AsyncClient, given: str) -> None:
    response = await client.get("/healthz", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", "é".encode(), b"a\x7f"])
async def test_request_id_is_replaced_where_it_is_not_sane(
    client: httpx.AsyncClient, given: bytes
) -> None:
    response = await client.get("/healthz", headers=[(b"x-request-id", given)])
    assert response.headers["x-request-id"].isalnum()
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/chat/completions", 404, "unknown_url"),
        ("POST", f"{CHAT}/", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/sums", 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("POST", CHAT, 415, "unsupported_media_type"),
    ],
)
async def test_every_failure_is_an_envelope_with_a_request_id(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert ("allow" in response.headers) == (status == 405)


async def test_an_unexpected_failure_is_logged_with_its_request_id(
    compose: Any, fakes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(compose({"a": fakes.line("a", (ValueError("disk on fire"),))}))
    with caplog.at_level(logging.ERROR, "coe.service"):
        async with client_of(app) as client:
            response = await client.post(CHAT, json=ask("hi"), headers={"x-request-id": "r-77"})
    assert response.headers["x-request-id"] == "r-77"
    assert "disk on fire" not in response.text
    assert "r-77" in caplog.text
    assert "disk on fire" in caplog.text


async def test_models_lists_the_router_and_every_expert(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=ask("sums"))
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == [
        "coe",
        "sums",
        "lands/capitals",
        "faulty",
        "broken",
    ]
    assert {model["object"] for model in body["data"]} == {"model"}
    assert body["data"][0]["coe"]["router"] == "named/top-1"
    assert body["data"][1]["coe"] == {
        "kind": "expert",
        "description": "adds",
        "skills": ["arithmetic"],
        "context_tokens": 64,
        "max_tokens": 16,
        "price": None,
        "state": "ready",
    }
    assert body["data"][2]["coe"]["state"] == "stopped"


@pytest.mark.parametrize("model", ["coe", "sums", "lands/capitals"])
async def test_model_is_shown_by_its_id(client: httpx.AsyncClient, model: str) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    shown = (await client.get(f"/v1/models/{model}")).json()
    assert shown["id"] == model
    assert shown in listed


async def test_settings_name_the_routing_model(compose: Any) -> None:
    app = create_app(compose(), ServiceSettings(model_name="auto"))
    async with client_of(app) as client:
        routed = await client.post(CHAT, json=ask("sums", model="auto"))
        unknown = await client.post(CHAT, json=ask("sums", model="coe"))
        listed = await client.get("/v1/models")
    assert (routed.status_code, unknown.status_code) == (200, 404)
    assert listed.json()["data"][0]["id"] == "auto"


async def test_healthz_is_alive(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_readyz_tells_each_experts_state(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=ask("sums"))
    response = await client.get("/readyz")
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["router"]) == ("ready", "named/top-1")
    assert body["experts"]["sums"] == "ready"
    assert body["experts"]["broken"] == "stopped"


async def test_readyz_is_503_where_the_router_cannot_route(
    fakes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ExpertPool((Expert("a", ScriptedSpec()),))
    scorer = fakes.scorer(pool.ids)
    scorer.score = lambda queries: [[float("nan")]] * len(queries)
    composition = Composition(Router(scorer, TopK(1), pool), {"a": ScriptedEngine(pool.experts[0])})
    async with client_of(create_app(composition)) as client:
        response = await client.get("/readyz")
        alive = await client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["status"] == "not ready"
    assert response.headers["x-request-id"] in response.json()["reason"]
    assert "not finite" not in response.text
    assert "not finite" in caplog.text
    assert alive.status_code == 200


async def test_readyz_trusts_a_proof_for_five_seconds_and_a_failure_not_at_all(
    fakes: Any,
) -> None:
    now_s = 0.0
    scores = [float("nan"), 1.0, 1.0]
    scorer = fakes.scorer(("a",))
    scorer.score = lambda queries: np.full((len(queries), 1), scores.pop(0))
    health = Health(composed(scorer), lambda: now_s)
    seen: list[tuple[float, int, int]] = []
    async with client_of(Envelope(health.ready)) as client:
        for now_s in (0.0, 0.0, 4.9, 5.0):
            response = await client.get("/readyz")
            seen.append((now_s, response.status_code, len(scores)))
    assert seen == [(0.0, 503, 2), (0.0, 200, 1), (4.9, 200, 1), (5.0, 200, 0)]


def test_app_refuses_an_expert_with_the_name_of_the_routing_model(
    compose: Any, fakes: Any, whole: Any
) -> None:
    composition = compose({"coe": fakes.line("coe", whole)})
    with pytest.raises(ConfigError, match=r"expert 'coe' .* give the expert another id"):
        create_app(composition)
    create_app(composition, ServiceSettings(model_name="auto"))


def test_app_stops_the_experts_when_it_is_shut_down(compose: Any) -> None:
    composition = compose()
    states: list[EngineState] = []
    with TestClient(create_app(composition)) as client:
        client.post(CHAT, json=ask("sums"))
        states.append(composition.engines["sums"].state)
    states.append(composition.engines["sums"].state)
    assert states == [EngineState.READY, EngineState.STOPPED]


async def test_chats_at_once_do_not_mix(client: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(
        *(client.post(CHAT, json=ask(f"sums {i} + {i}")) for i in range(30))
    )
    texts = [response.json()["choices"][0]["message"]["content"] for response in responses]
    assert texts == [f"{i} plus {i} it is" for i in range(30)]
