"""Whatever goes wrong reaches the official client as the exception it has for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from coe.experts import Price
from coe.service.app import create_app
from coe.service.settings import ServiceSettings
from coe.store import KeyLimits, Store, StoreSettings, open_store

NEVER = 0
TWICE = 2


def said(text: str = "sums: 1 + 1") -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The gateway closes it."""
    return open_store(StoreSettings(tmp_path / "store"))


@pytest.fixture
def locked(serve: Any, compose: Any, store: Store) -> Iterator[str]:
    """The base URL of a gateway that wants keys."""
    app = create_app(compose(), ServiceSettings(needs_key=True), store=store)
    with serve(app) as url:
        yield url


def _key(store: Store, **limits: Any) -> str:
    secret, _ = asyncio.run(store.keys.create("team", KeyLimits(**limits)))
    return secret


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"api_base": "http://127.0.0.1:1"}}, "api_base"),
        ({"extra_body": {"coe": {"prority": 1}}}, "coe.prority"),
        ({"model": "sums", "extra_body": {"coe": {"experts": ["lands"]}}}, "model"),
        ({"model": "sums", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_client_raises_bad_request_that_names_the_field(
    features: Any, asked: dict[str, Any], param: str
) -> None:
    body: dict[str, Any] = {"model": "coe", "messages": said()} | asked
    with pytest.raises(openai.BadRequestError) as caught:
        features.client.chat.completions.create(**body)
    assert caught.value.param == param
    assert caught.value.request_id
    assert caught.value.type == "invalid_request_error"


def test_client_raises_bad_request_in_the_words_of_the_server(features: Any) -> None:
    choice: Any = {"type": "function", "function": {"name": "other"}}
    tool: Any = {"type": "function", "function": {"name": "add"}}
    with pytest.raises(openai.BadRequestError, match="'other', which is no tool"):
        features.client.chat.completions.create(
            model="features", messages=said(), tools=[tool], tool_choice=choice
        )


@pytest.mark.parametrize("stream", [False, True])
def test_client_raises_not_found_for_a_model_that_there_is_not(features: Any, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        features.client.chat.completions.create(model="featurs", messages=said(), stream=stream)
    assert caught.value.code == "model_not_found"
    assert "features" in caught.value.message


def test_client_raises_authentication_error_without_a_key(locked: str, ask: Any) -> None:
    with ask(locked, key="sk-unknown") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_client_raises_rate_limit_error_over_its_limit(locked: str, ask: Any, store: Store) -> None:
    with ask(locked, key=_key(store, rpm=1)) as client:
        first = client.chat.completions.with_raw_response.create(model="coe", messages=said())
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="coe", messages=said())
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.code == "rate_limit_exceeded"


def test_client_raises_status_error_that_it_does_not_retry_over_its_budget(
    serve: Any, compose: Any, ask: Any, store: Store
) -> None:
    app = create_app(compose(price=Price(0.0, 1e6)), ServiceSettings(needs_key=True), store=store)
    with serve(app) as url, ask(url, key=_key(store, budget_usd=1.0), retries=TWICE) as client:
        began_s = time.monotonic()
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="coe", messages=said(), max_tokens=100)
    assert caught.value.status_code == 402
    assert caught.value.code == "budget_exceeded"
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("status", [429, 503])
def test_client_raises_server_error_with_the_time_to_come_back(features: Any, status: int) -> None:
    features.server.refusals.append((status, 7))
    with pytest.raises(openai.InternalServerError) as caught:
        features.client.chat.completions.create(model="features", messages=said())
    assert caught.value.status_code == 503
    assert caught.value.code == "expert_busy"
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_client_that_retries_stays_away_as_long_as_it_is_asked_to(
    features: Any, ask: Any, status: int
) -> None:
    features.server.refusals.append((status, 2))
    with ask(features.url, retries=TWICE) as client:
        began_s = time.monotonic()
        completion = client.chat.completions.create(model="features", messages=said("again"))
    assert completion.choices[0].message.content == "again"
    assert 2 <= time.monotonic() - began_s < 6


def test_client_raises_timeout_error_when_it_has_waited_long_enough(hanging: Any, ask: Any) -> None:
    with ask(hanging, timeout_s=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="hanging", messages=said())


def test_client_raises_server_error_when_its_deadline_has_passed(hanging: Any, ask: Any) -> None:
    with ask(hanging) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="hanging", messages=said(), extra_headers={"x-coe-timeout": "0.2"}
        )
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_exceeded"


def test_client_raises_connection_error_where_nobody_listens(ask: Any) -> None:
    with ask("http://127.0.0.1:9") as client, pytest.raises(openai.APIConnectionError):
        client.models.list()


async def test_async_client_raises_the_same(features: Any) -> None:
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(
            base_url=f"{features.url}/v1", api_key="none", max_retries=NEVER, http_client=http
        ) as client,
    ):
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="coe", messages=[])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("featurs")
