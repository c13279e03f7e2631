"""Progress in the comments of a stream: asked for, told before the first word, in nobody's way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from starlette.types import Message, Receive, Scope, Send

from coe.aggregation import LLMAggregator
from coe.composition import Composition
from coe.engines.base import Engine
from coe.engines.scripted import ScriptedEngine
from coe.errors import UpstreamError
from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import Router
from coe.service.app import create_app
from coe.service.comments import Comments
from coe.service.metrics import GatewayMetrics
from coe.service.observing import Observed
from coe.service.settings import ServiceSettings
from coe.store import StoreSettings, open_store
from coe.types import Delta, GenerationRequest

CHAT = "/v1/chat/completions"
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
DEAD = ScriptedSpec(default="never", fail_after_tokens=0)
PROGRESS = {"progress": True}


def _ask(coe: Any = PROGRESS, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "a"}]
    return {"model": "coe", "messages": messages, "stream": True, "coe": coe, **fields}


def _composed(fakes: Any, k: int, **engines: Engine | ScriptedSpec) -> Composition:
    """`w` writes the answer of several, for a dollar a token."""
    running = {
        id_: ScriptedEngine(Expert(id_, it)) if isinstance(it, ScriptedSpec) else it
        for id_, it in engines.items()
    }
    prices = {"w": Price(usd_per_mtok_in=0.0, usd_per_mtok_out=1e6)}
    pool = ExpertPool(tuple(Expert(id_, ScriptedSpec(), price=prices.get(id_)) for id_ in running))
    router = Router(fakes.scorer(pool.ids), TopK(k), pool)
    return Composition(router, running, LLMAggregator(running["w"]) if "w" in running else None)


def _client(composition: Composition, **more: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(composition, **more))
    return httpx.AsyncClient(transport=transport, base_url="http://coe")


def _comments(text: str) -> list[Any]:
    return [
        json.loads(line.removeprefix(": coe "))
        for line in text.splitlines()
        if line.startswith(": coe {")
    ]


def _without(text: str) -> str:
    """What is left for a client that passes over comments."""
    parts = text.split("\n\n")
    return "\n\n".join(part for part in parts if not part.startswith(":"))


def _says(text: str) -> ScriptedSpec:
    return ScriptedSpec(default=text)


async def test_progress_comes_before_the_first_word(fakes: Any) -> None:
    specs = {"a": _says("one"), "b": DEAD, "c": _says("two more"), "w": _says("all of it")}
    composition = _composed(fakes, 3, **specs)
    async with _client(composition) as client:
        response = await client.post(CHAT, json=_ask())
    first, *others = _comments(response.text)
    assert first == {"asked": ["a", "b", "c"]}
    assert others[-1] == {"writing": "w"}
    told = sorted(json.dumps(comment) for comment in others[:-1])
    assert told == [
        '{"answered": "a", "n": 1, "of": 3}',
        '{"answered": "c", "n": 2, "of": 3}',
        '{"failed": "b"}',
    ]
    events = response.text.split("\n\n")
    assert [event.startswith(": coe ") for event in events[:6]] == [True] * 5 + [False]
    assert '"content":" of"' in response.text


@pytest.mark.parametrize(
    ("headers", "coe", "is_told"),
    [
        ({"x-coe-progress": "true"}, None, True),
        ({"x-coe-progress": "false"}, None, False),
        ({"x-coe-progress": "true"}, {"progress": False}, False),
        ({}, {"progress": None}, False),
        ({}, None, False),
    ],
)
async def test_progress_is_told_to_those_who_asked(
    fakes: Any, headers: dict[str, str], coe: Any, is_told: bool
) -> None:
    async with _client(_composed(fakes, 1, a=_says("hi"))) as client:
        response = await client.post(CHAT, json=_ask(coe), headers=headers)
        assert bool(_comments(response.text)) == is_told
        whole = await client.post(CHAT, json=_ask(coe, stream=False), headers=headers)
    assert whole.json()["choices"][0]["message"]["content"] == "hi"


async def test_progress_that_is_neither_true_nor_false_is_refused(fakes: Any) -> None:
    async with _client(_composed(fakes, 1, a=_says("hi"))) as client:
        response = await client.post(CHAT, json=_ask(None), headers={"x-coe-progress": "yes"})
        assert response.json()["error"]["param"] == "x-coe-progress"
        response = await client.post(CHAT, json=_ask({"progress": "true"}))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "coe.progress")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
async def test_progress_is_told_in_every_protocol(fakes: Any, path: str) -> None:
    asked = "prompt" if path == "/v1/completions" else "input"
    body = {"model": "coe", asked: "a", "stream": True, "coe": PROGRESS}
    async with _client(_composed(fakes, 1, a=_says("hi"))) as client:
        response = await client.post(path, json=body)
    assert _comments(response.text) == [{"asked": ["a"]}]
    assert response.text.startswith(": coe ")


class Slow(ScriptedEngine):
    """Fails or speaks only once it has been let on."""

    def __init__(self, expert_id: str, spec: ScriptedSpec) -> None:
        super().__init__(Expert(expert_id, spec))
        self.go_on = asyncio.Event()

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        await self.go_on.wait()
        async for delta in super().stream(request):
            yield delta


class Exchange:
    """One request to an app, whose response is kept message by message."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self._body = json.dumps(body).encode()
        self._is_read = False
        self._gone = asyncio.Event()
        self._more = asyncio.Event()
        self.messages: list[Message] = []
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }

    async def receive(self) -> Message:
        if self._is_read:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        self._is_read = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, is_so: Callable[[str], bool]) -> str:
        async with asyncio.timeout(10):
            while not is_so(self.text):
                self._more.clear()
                await self._more.wait()
        return self.text

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()


async def test_progress_comes_while_an_expert_is_still_silent(fakes: Any) -> None:
    slow = Slow("a", _says("hi"))
    app = create_app(_composed(fakes, 1, a=slow))
    exchange = Exchange(CHAT, _ask())
    serving = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    assert _comments(await exchange.until(bool)) == [{"asked": ["a"]}]
    headers = dict(exchange.messages[0]["headers"])
    assert (headers[b"x-coe-expert"], headers[b"cache-control"]) == (b"a", b"no-cache")
    slow.go_on.set()
    await serving
    assert exchange.text.endswith("data: [DONE]\n\n")
    assert [m["type"] for m in exchange.messages].count("http.response.start") == 1


@pytest.mark.parametrize(
    ("path", "fields", "events"),
    [
        (CHAT, {}, ['"code":"upstream_error"']),
        (
            "/v1/responses",
            {"input": "a", "messages": None},
            ["event: response.created", "event: response.failed", '"id":"resp_DECISION"'],
        ),
    ],
)
async def test_failure_after_progress_was_told_is_an_event(
    fakes: Any, path: str, fields: dict[str, Any], events: list[str]
) -> None:
    slow = Slow("a", DEAD)
    app = create_app(_composed(fakes, 1, a=slow))
    exchange = Exchange(path, _ask(**fields))
    serving = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    await exchange.until(bool)
    slow.go_on.set()
    await serving
    assert _comments(exchange.text) == [{"asked": ["a"]}, {"failed": "a"}]
    decision_id = dict(exchange.messages[0]["headers"])[b"x-coe-decision-id"].decode()
    for event in events:
        assert event.replace("DECISION", decision_id) in exchange.text
    assert exchange.messages[0]["status"] == 200
    assert exchange.messages[-1]["more_body"], "the response is left without its end"


async def test_failover_goes_on_silently_after_progress_was_told(fakes: Any) -> None:
    slow = Slow("a", DEAD)
    app = create_app(_composed(fakes, 1, a=slow, b=_says("yes")))
    exchange = Exchange(CHAT, _ask())
    serving = asyncio.create_task(app(exchange.scope, exchange.receive, exchange.send))
    await exchange.until(bool)
    slow.go_on.set()
    await serving
    assert _comments(exchange.text) == [{"asked": ["a"]}, {"failed": "a"}, {"asked": ["b"]}]
    assert '"model":"b"' in exchange.text
    assert exchange.text.endswith("data: [DONE]\n\n")


async def test_request_that_nobody_was_asked_for_keeps_its_status(fakes: Any) -> None:
    async with _client(_composed(fakes, 1, a=_says("hi"))) as client:
        response = await client.post(CHAT, json=_ask(model="nobody"))
    assert response.status_code == 404


async def test_cache_keeps_no_comments(fakes: Any, tmp_path: Path) -> None:
    store = open_store(StoreSettings(tmp_path / "store"))
    composition = _composed(fakes, 1, a=_says("hi"))
    async with _client(composition, settings=ServiceSettings(caches=True), store=store) as client:
        first = await client.post(CHAT, json=_ask())
        again = await client.post(CHAT, json=_ask({}))
    await store.close()
    assert [r.headers["x-coe-cache"] for r in (first, again)] == ["miss", "hit"]
    assert _comments(first.text) == [{"asked": ["a"]}]
    assert again.text == _without(first.text)
    assert again.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_who_writes_the_answer_is_paid_for_writing_alone(
    fakes: Any, tmp_path: Path, is_streamed: bool
) -> None:
    store = open_store(StoreSettings(tmp_path / "store"))
    specs = {"a": _says("one"), "b": _says("two"), "w": _says("all of it")}
    async with _client(_composed(fakes, 2, **specs), store=store) as client:
        response = await client.post(CHAT, json=_ask({}, stream=is_streamed))
    await store.flush()
    [logged] = await store.decisions.latest(10)
    await store.close()
    assert response.headers["x-coe-expert"] == "a,b"
    assert (logged.experts, logged.completion_tokens) == (("a", "b"), 1 + 1 + 3)
    assert logged.cost_usd == pytest.approx(3.0)


class Line:
    """Keeps what is sent, and tells when something was."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._more = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self._more.set()

    async def next(self) -> bytes:
        async with asyncio.timeout(10):
            self._more.clear()
            await self._more.wait()
        return bytes(self.sent[-1].get("body", b""))


def _piece(body: bytes, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


async def test_silence_is_broken_by_comments() -> None:
    line = Line()
    comments = Comments(line.send, line.send, START, keep_alive_s=0.001)
    with comments.telling():
        await line.next()
        assert line.sent[:2] == [START, _piece(b": coe\n\n")]
        await comments.send(_piece(b"data: 1\n\n"))
        while await line.next() != b": coe\n\n":
            pass


@pytest.mark.parametrize("last", [_piece(b"data: ha"), _piece(b"data: [DONE]\n\n", is_last=True)])
async def test_no_comment_comes_inside_an_event_or_after_the_end(last: Message) -> None:
    line = Line()
    comments = Comments(line.send, line.send, START, keep_alive_s=0.001)
    with comments.telling():
        await comments.send(START)
        await comments.send(last)
        comments.asked(["a"])
        await asyncio.sleep(0.01)  # ten times as long as silence may last
    assert line.sent[-1] == last
    assert [message["type"] for message in line.sent].count("http.response.start") == 1


async def test_comment_that_cannot_be_sent_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(message: Message) -> None:
        raise OSError("gone")

    line = Line()
    comments = Comments(line.send, fails, START)
    with comments.telling():
        comments.asked(["a"])
        await line.next()
        await asyncio.sleep(0)
    assert "progress have failed" in caplog.text


async def test_comment_is_not_the_first_byte_that_is_measured() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(_piece(b": coe {}\n\n"))
        if scope["path"] == CHAT:
            await send(_piece(b"data: 1\n\n"))
        await send(_piece(b"", is_last=True))

    def n_measured(metrics: GatewayMetrics) -> float:
        return sum(
            sample.value
            for family in metrics.families()
            for sample in family.samples
            if "first" in sample.name and sample.name.endswith("_count")
        )

    metrics = GatewayMetrics()
    for path, expected in (("/v1/completions", 0), (CHAT, 1)):
        exchange = Exchange(path, {})
        await Observed(app, metrics)(exchange.scope, exchange.receive, exchange.send)
        assert n_measured(metrics) == expected


def test_client_streams_over_comments(fakes: Any, serve: Any) -> None:
    specs = {"a": _says("one"), "b": _says("two"), "w": _says("all of it")}
    with (
        serve(create_app(_composed(fakes, 2, **specs))) as live,
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as ai,
    ):
        stream = ai.chat.completions.create(
            model="coe",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"coe": PROGRESS},
        )
        assert stream.response.headers["x-coe-expert"] == "a,b"
        chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert texts == ["", "all", " of", " it", ""]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 1 + 1 + 3


def test_client_hears_of_a_failure_after_comments(fakes: Any, serve: Any) -> None:
    line = fakes.line("a", (UpstreamError("a", "died"),))
    with (
        serve(create_app(_composed(fakes, 1, a=line))) as live,
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as ai,
        pytest.raises(openai.APIError) as caught,
    ):
        list(
            ai.chat.completions.create(
                model="coe",
                messages=[{"role": "user", "content": "a"}],
                stream=True,
                extra_body={"coe": PROGRESS},
            )
        )
    assert caught.value.code == "upstream_error"
