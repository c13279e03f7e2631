"""Embedding experts: what they answer, what they refuse, and how they start and stop."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coe.encoders import default_encoder
from coe.engines.base import EngineState
from coe.engines.embedder import MOST_TEXTS, EmbedderEngine
from coe.engines.wrapping import passes_bytes
from coe.errors import ConfigError, RequestError, StartupError
from coe.experts import EmbedderSpec, Expert
from coe.routing import Encoder
from coe.types import Delta, GenerationRequest, Message, RawRequest

EXPERT = Expert("ships", EmbedderSpec())


def _engine(build: Callable[[], Encoder] = default_encoder) -> EmbedderEngine:
    return EmbedderEngine(EXPERT, build)


def _request(fields: dict[str, Any], route: str = "embeddings") -> GenerationRequest:
    return GenerationRequest((), raw=RawRequest({"model": "coe", **fields}, route, is_all=True))


def _state(engine: EmbedderEngine) -> EngineState:
    # Read anew: a type checker takes an attribute that was compared once as settled.
    return engine.state


async def _deltas(engine: EmbedderEngine, **fields: object) -> list[Delta]:
    return [delta async for delta in engine.stream(_request(fields))]


async def _answer(engine: EmbedderEngine, **fields: object) -> dict[str, Any]:
    first, _ = await _deltas(engine, **fields)
    answer: dict[str, Any] = json.loads(first.raw)
    return answer


async def test_answer_is_openais_list_of_embeddings_in_order() -> None:
    texts = ["keel and mast", "yeast"]
    answer = await _answer(_engine(), input=texts)
    assert (answer["object"], answer["model"]) == ("list", "ships")
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert {entry["object"] for entry in answer["data"]} == {"embedding"}
    got = np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)
    assert np.array_equal(got, default_encoder().encode(texts))


async def test_base64_holds_the_same_floats() -> None:
    answer = await _answer(_engine(), input="keel", encoding_format="base64")
    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert np.array_equal(np.frombuffer(raw, "<f4"), default_encoder().encode(["keel"])[0])


async def test_usage_counts_words_and_ends_the_stream() -> None:
    first, last = await _deltas(_engine(), input=["one two", "three"])
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 0)
    assert json.loads(first.raw)["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, "input"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_requests_it_cannot_take_name_the_field(fields: dict[str, Any], param: str) -> None:
    engine = _engine()
    with pytest.raises(RequestError) as raised:
        await _deltas(engine, **fields)
    assert raised.value.param == param
    assert engine.state is EngineState.STOPPED


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest((Message("user", "hello"),)),
        _request({"messages": []}, "chat/completions"),
    ],
)
async def test_it_does_not_write(request_: GenerationRequest) -> None:
    with pytest.raises(RequestError, match="embeds and does not write"):
        await anext(aiter(_engine().stream(request_)))


async def test_encoder_is_made_once_a_start_and_dropped_by_a_stop() -> None:
    made: list[Encoder] = []

    def build() -> Encoder:
        made.append(default_encoder())
        return made[-1]

    engine = _engine(build)
    await _deltas(engine, input="keel")
    await _deltas(engine, input="mast")
    assert len(made) == 1
    assert _state(engine) is EngineState.READY
    await engine.stop(1.0)
    assert _state(engine) is EngineState.STOPPED
    await _deltas(engine, input="mast")
    assert len(made) == 2


async def test_encoder_that_cannot_be_made_fails_the_start() -> None:
    def build() -> Encoder:
        raise ConfigError("no adapter here", file="adapters/ships")

    engine = _engine(build)
    with pytest.raises((ConfigError, StartupError), match="no adapter here"):
        await engine.ensure_ready(5.0)
    assert engine.state is EngineState.FAILED


def test_only_embeddings_pass_through_it() -> None:
    assert passes_bytes(_engine(), "embeddings")
    assert not passes_bytes(_engine(), "chat/completions")
