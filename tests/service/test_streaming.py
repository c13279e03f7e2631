from __future__ import annotations

import json
import socket
from typing import Any

import httpx2 as httpx
import pytest

from coe.errors import UpstreamError
from coe.service.app import create_app
from coe.service.settings import ServiceSettings
from coe.types import Delta

CHAT = "/v1/chat/completions"


def ask(text: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "coe", "messages": [message], "stream": True, **fields}


def events_of(text: str) -> list[Any]:
    """The data of every event, parsed; `[DONE]` stays as it is."""
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def test_stream_is_openai_chunks(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums: 12 + 30"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"sums"}
    assert {chunk["id"] for chunk in chunks} == {
        f"chatcmpl-{response.headers['x-coe-decision-id']}"
    }
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"].get("content") for choice in choices[1:-1]] == [
        "12",
        " plus",
        " 30",
        " it",
        " is",
    ]
    assert choices[-1]["delta"] == {}
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]


async def test_stream_headers_tell_the_decision(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ask("sums"), headers={"x-request-id": "r-5"})
    assert response.headers["x-coe-expert"] == "sums"
    assert response.headers["x-coe-router"] == "named/top-1"
    assert response.headers["x-coe-scores"].startswith("sums=1,")
    assert response.headers["x-request-id"] == "r-5"
    assert response.headers["cache-control"] == "no-cache"


async def test_stream_ends_with_usage_where_it_is_wanted(client: httpx.AsyncClient) -> None:
    wanted = {"include_usage": True}
    response = await client.post(CHAT, json=ask("sums: 12 + 30", stream_options=wanted))
    *chunks, last, done = events_of(response.text)
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * 7
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}


async def test_stream_of_an_empty_answer_still_ends_well(compose: Any, fakes: Any) -> None:
    line = (Delta(), Delta(finish_reason="length"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(compose({"a": fakes.line("a", line)})))
    ) as client:
        response = await client.post(f"http://coe{CHAT}", json=ask("hi"))
    first, last, done = events_of(response.text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "length"
    assert done == "[DONE]"


async def test_stream_keeps_text_exactly(compose: Any, fakes: Any) -> None:
    texts = ('a"\\\n', "data: x\n\n", "é😀\u2028", "</s>")
    line = (*(Delta(text) for text in texts), Delta(finish_reason="stop"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(compose({"a": fakes.line("a", line)})))
    ) as client:
        response = await client.post(f"http://coe{CHAT}", json=ask("hi"))
    chunks = events_of(response.text)[1:-2]
    assert tuple(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == texts


def cut_off_text(url: str, text: str = "hi") -> str:
    """What arrives of a stream that does not end as HTTP says a response ends."""
    arrived: list[str] = []
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{url}{CHAT}", json=ask(text)) as response,
    ):
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            arrived.extend(response.iter_text())
    return "".join(arrived)


def test_stream_that_dies_ends_in_an_error_and_not_cleanly(
    live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    *chunks, error = events_of(cut_off_text(live.url, "faulty"))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "one", " two"]
    assert error["error"]["type"] == "server_error"
    assert error["error"]["code"] == "upstream_error"
    assert "expert 'faulty' failed" in error["error"]["message"]
    assert "scripted to fail" not in error["error"]["message"]
    assert "scripted to fail" in caplog.text


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (
            (UpstreamError("a", "secret", 401),),
            ("upstream_error", "expert 'a' failed with status 401", "secret"),
        ),
        ((ValueError("secret"),), ("internal_error", "the gateway failed", "secret")),
        ((), ("upstream_error", "expert 'a' failed", "broke off")),
    ],
)
def test_stream_that_breaks_off_tells_what_failed_and_logs_why(
    compose: Any,
    fakes: Any,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    end: Any,
    told: tuple[str, str, str],
) -> None:
    with serve(create_app(compose({"a": fakes.line("a", (Delta("one"), *end))}))) as live:
        error = events_of(cut_off_text(live.url))[-1]["error"]
    code, failure, logged = told
    assert error["code"] == code
    assert error["message"].startswith(f"{failure}; the gateway's log has the cause")
    assert logged not in error["message"]
    assert logged in caplog.text


def test_stream_is_cut_at_the_request_timeout(compose: Any, fakes: Any, serve: Any) -> None:
    engine = fakes.hanging("a", 2)
    settings = ServiceSettings(request_timeout_s=0.05)
    with serve(create_app(compose({"a": engine}), settings)) as live:
        error = events_of(cut_off_text(live.url))[-1]["error"]
    assert error["code"] == "deadline_exceeded"
    assert engine.cancelled == 1


@pytest.mark.parametrize("n_words", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_cancels_the_expert(
    compose: Any, fakes: Any, serve: Any, n_words: int, stream: bool
) -> None:
    engine = fakes.hanging("a", n_words)
    with serve(create_app(compose({"a": engine}))) as live:
        port = int(live.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(_request(json.dumps(ask("hi", stream=stream)).encode()))
            assert engine.hung.wait(10)
            assert not engine.released.is_set()
        # Leaving the block closed the connection; nothing else has.
        assert engine.released.wait(10)
        assert httpx.get(f"{live.url}/healthz", trust_env=False).status_code == 200
    assert engine.cancelled == 1


def test_stream_reaches_the_client_while_the_expert_still_speaks(
    compose: Any, fakes: Any, serve: Any
) -> None:
    engine = fakes.hanging("a", 2)
    with (
        serve(create_app(compose({"a": engine}))) as live,
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{live.url}{CHAT}", json=ask("hi")) as response,
    ):
        lines = response.iter_lines()
        arrived = [line for line, _ in zip(lines, range(5), strict=False) if line]
        assert not engine.released.is_set()
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in arrived]
    assert [text["content"] for text in texts] == ["", "word", " word"]


def _request(body: bytes) -> bytes:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: coe\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
