"""Whatever a body says, the gateway answers or explains; it never breaks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from coe.service.app import create_app

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)})
CONTENT = st.text(max_size=30) | st.lists(PART, min_size=1, max_size=2)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": CONTENT}
)
VALID: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["coe", "sums", "lands/capitals"]),
        "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    },
    optional={
        "temperature": st.none() | st.floats(0, 2),
        "top_p": st.none() | st.floats(0.01, 1),
        "max_tokens": st.none() | st.integers(1, 9),
        "max_completion_tokens": st.none() | st.integers(1, 9),
        "seed": st.none() | st.integers(-9, 9),
        "stop": st.none() | st.text(min_size=1, max_size=2) | st.lists(st.just("x"), max_size=4),
        "stream": st.none() | st.booleans(),
        "n": st.none() | st.just(1),
        "tools": st.none() | st.just([]),
        "response_format": st.none() | st.just({"type": "text"}),
        "logit_bias": st.none() | st.just({}),
        "user": JUNK,
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A valid body with junk in one place of it."""
    body: dict[str, Any] = dict(draw(VALID))
    field = draw(st.sampled_from([*sorted(body), "stream_options", "stop", "audio", "functions"]))
    if field == "messages" and draw(st.booleans()):
        message = dict(body["messages"][0])
        message[draw(st.sampled_from(["role", "content", "tool_calls", "name"]))] = draw(JUNK)
        body["messages"] = [message, *body["messages"][1:]]
    else:
        body[field] = draw(JUNK)
    return body


@pytest.fixture(scope="module")
def app(compose: Any) -> Starlette:
    return create_app(compose())


def check(app: Starlette, body: bytes) -> int:
    response = asyncio.run(_post(app, body))
    assert response.headers["x-request-id"]
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            assert response.json()["choices"][0]["message"]["role"] == "assistant"
    else:
        assert 400 <= response.status_code < 500
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["message"]
    return response.status_code


async def _post(app: Starlette, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.post(
            "http://coe/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
        )


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(body=VALID)
def test_any_valid_chat_body_is_answered(app: Starlette, body: dict[str, Any]) -> None:
    assert check(app, json.dumps(body).encode()) == 200


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(body=damaged())
def test_any_damaged_chat_body_is_answered_or_explained(
    app: Starlette, body: dict[str, Any]
) -> None:
    check(app, json.dumps(body).encode())


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(body=st.binary(max_size=60) | JUNK.map(lambda junk: json.dumps(junk).encode()))
def test_any_bytes_are_explained(app: Starlette, body: bytes) -> None:
    assert check(app, body) == 400
