"""How urgent a request is: said in headers or in the body, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from coe.assembly import load_composition
from coe.composition import Composition
from coe.engines.base import Engine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ScriptedSpec
from coe.service.app import create_app
from coe.service.control import Control
from coe.service.errors import InvalidRequest
from coe.service.settings import ServiceSettings
from coe.service.wire import read_chat

CHAT = "/v1/chat/completions"
HOSTED = """
experts:
  - {id: a, engine: {kind: scripted, default: hi}, footprint: {gib: 1, load_s: 10000}}
router: {scorer: random}
"""


def _body(**coe: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "coe", "messages": messages, "coe": coe}).encode()


def _client(composition: Composition, **settings: Any) -> httpx.AsyncClient:
    app = create_app(composition, ServiceSettings(**settings))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://coe")


async def _ask(client: httpx.AsyncClient, coe: Any = None, **headers: str) -> httpx.Response:
    sent = {f"x-coe-{name}": value for name, value in headers.items()}
    return await client.post(
        CHAT,
        json={"model": "a", "messages": [{"role": "user", "content": "hi"}], "coe": coe},
        headers=sent,
    )


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(Expert("a", ScriptedSpec(default="hi")))


@pytest.fixture
async def client(compose: Any, engine: ScriptedEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(compose({"a": engine})) as client:
        yield client


def test_control_of_a_body_is_read() -> None:
    call = read_chat(_body(priority=-10, timeout_s=2))
    assert (call.generation.priority, call.timeout_s) == (-10, 2.0)
    assert call.generation.deadline_s is None
    plain = read_chat(_body())
    assert (plain.generation.priority, plain.timeout_s) == (0, None)


def test_control_of_a_body_goes_before_that_of_headers() -> None:
    call = read_chat(_body(priority=0), Control(5, 7.0))
    assert (call.generation.priority, call.timeout_s) == (0, 7.0)


@pytest.mark.parametrize(
    ("coe", "param", "words"),
    [
        ({"priority": 11}, "coe.priority", "less than or equal to 10"),
        ({"priority": -11}, "coe.priority", "greater than or equal to -10"),
        ({"priority": 1.5}, "coe.priority", "integer"),
        ({"priority": True}, "coe.priority", "integer"),
        ({"timeout_s": 0}, "coe.timeout_s", "greater than 0"),
        ({"timeout_s": "5"}, "coe.timeout_s", "number"),
        ({"timeout": 5}, "coe.timeout", "did you mean 'timeout_s'?"),
        ({"qwertz": 5}, "coe.qwertz", "only priority, timeout_s"),
    ],
)
def test_urgency_that_cannot_be_is_refused_by_name(
    coe: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_chat(_body(**coe))
    assert caught.value.param == param
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"priority": "11"},
        {"priority": "1.0"},
        {"priority": "high"},
        {"priority": ""},
        {"priority": "1" * 5000},
        {"priority": "١"},
        {"timeout": "0"},
        {"timeout": "-1"},
        {"timeout": "1e3"},
        {"timeout": "nan"},
        {"timeout": "inf"},
        {"timeout": "9" * 5000},
    ],
)
async def test_header_of_urgency_that_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, engine: ScriptedEngine, headers: dict[str, str]
) -> None:
    response = await client.post(
        CHAT,
        content=_body(),
        headers=[
            (b"content-type", b"application/json"),
            *((f"x-coe-{name}".encode(), value.encode()) for name, value in headers.items()),
        ],
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"x-coe-{next(iter(headers))}"
    assert engine.requests == []


async def test_urgency_reaches_the_engine(
    client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    now_s = asyncio.get_running_loop().time()
    await _ask(client, priority="-3", timeout="30")
    await _ask(client, {"priority": 7, "timeout_s": 900})
    await _ask(client)
    headers, body, plain = engine.requests
    assert (headers.priority, body.priority, plain.priority) == (-3, 7, 0)
    assert headers.deadline_s == pytest.approx(now_s + 30, abs=5)
    # Longer than the gateway waits, which cuts it off then.
    assert body.deadline_s == pytest.approx(now_s + 900, abs=5)
    assert plain.deadline_s is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("timeout_s", "whose"), [(0.05, "allow more time"), (9, "gateway's")])
async def test_answer_that_is_late_is_told_whose_limit_it_was(
    compose: Any, fakes: Any, timeout_s: float, whose: str, stream: bool
) -> None:
    engines: dict[str, Engine] = {"a": fakes.hanging("a", 0)}
    async with _client(compose(engines), request_timeout_s=0.1) as client:
        said = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        response = await client.post(CHAT, json={**said, "coe": {"timeout_s": timeout_s}})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert whose in response.json()["error"]["message"]


async def test_deadline_that_cannot_be_met_is_refused_at_once_and_only_a_clients(
    tmp_path: Path,
) -> None:
    """The file's guess of its load is beyond any timeout, and wrong."""
    (tmp_path / "experts.yaml").write_text(HOSTED)
    composition = load_composition(tmp_path / "experts.yaml")
    async with _client(composition) as client:
        refused = await _ask(client, timeout="60")
        assert refused.status_code == 504
        assert "at the earliest" in refused.json()["error"]["message"]
        assert composition.engines["a"].state.value == "stopped"
        # The gateway's own limit of 600 s refuses nobody, so that the guess gets measured.
        assert (await _ask(client)).status_code == 200
        assert (await _ask(client, timeout="60")).status_code == 200
    await composition.stop()
