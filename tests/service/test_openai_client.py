"""The official client, unchanged, against a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest


@pytest.fixture
def ai(live: Any) -> Iterator[openai.OpenAI]:
    with (
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("model", "asked", "answer", "expert"),
    [
        ("coe", "sums: 12 + 30", "12 plus 30 it is", "sums"),
        ("coe", "lands/capitals of Peru", "the heart of Peru", "lands/capitals"),
        ("lands/capitals", "sums: 12 + 30", "Lima", "lands/capitals"),
    ],
)
def test_client_gets_a_whole_answer(
    ai: openai.OpenAI, model: str, asked: str, answer: str, expert: str
) -> None:
    raw = ai.chat.completions.with_raw_response.create(model=model, messages=said(asked))
    completion = raw.parse()
    assert completion.choices[0].message.content == answer
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == len(answer.split())
    assert raw.headers["x-coe-expert"] == completion.model == expert


@pytest.mark.parametrize(
    ("model", "answer"), [("coe", "12 plus 30 it is"), ("lands/capitals", "Lima")]
)
def test_client_gets_a_stream_with_usage(ai: openai.OpenAI, model: str, answer: str) -> None:
    stream = ai.chat.completions.create(
        model=model,
        messages=said("sums: 12 + 30"),
        stream=True,
        stream_options={"include_usage": True},
    )
    assert "x-coe-expert" in stream.response.headers
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == answer
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(answer.split())


def test_client_lists_and_retrieves_models(ai: openai.OpenAI) -> None:
    ids = [model.id for model in ai.models.list()]
    assert ids == ["coe", "sums", "lands/capitals", "faulty", "broken"]
    assert ai.models.retrieve("sums").owned_by == "coe"
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("gpt-4")


@pytest.mark.parametrize("stream", [False, True])
def test_client_raises_not_found_for_an_unknown_model(ai: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ai.chat.completions.create(model="gpt-4", messages=said("hi"), stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id


def test_client_raises_bad_request(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model="coe", messages=[])
    assert caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model="sums", messages=said("sums " * 80))
    assert caught.value.code == "context_length_exceeded"


def test_client_raises_server_error_before_the_first_text(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ai.chat.completions.create(model="broken", messages=said("hi"), stream=True)
    assert caught.value.status_code == 502


def test_client_raises_in_a_stream_that_dies(ai: openai.OpenAI) -> None:
    stream = ai.chat.completions.create(model="faulty", messages=said("hi"), stream=True)
    texts: list[str | None] = []
    with pytest.raises(openai.APIError, match="'faulty' failed") as caught:
        texts.extend(chunk.choices[0].delta.content for chunk in stream)
    assert texts == ["", "one", " two"]
    assert caught.value.code == "upstream_error"


async def test_fifty_streams_at_once_do_not_mix(live: Any) -> None:
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as http,
        openai.AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):

        async def answer(number: int) -> str:
            stream = await client.chat.completions.create(
                model="coe", messages=said(f"sums: {number} + {number}"), stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(answer(number) for number in range(50)))
    assert answers == [f"{number} plus {number} it is" for number in range(50)]
