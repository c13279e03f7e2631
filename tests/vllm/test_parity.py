"""A real vLLM and our own local engine agree, and our client reads a real vLLM right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coe.engines.base import Engine, collect
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.errors import ContextOverflow, UpstreamError
from coe.experts import Expert, LocalSpec, OpenAISpec
from coe.types import Completion, GenerationRequest, Message, SamplingParams
from coe.zoo import FIELDS, model_dir
from coe.zoo.questions import zoo_questions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Serve = Callable[[str, Path], str]
N_QUESTIONS = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One zoo model, behind a real vLLM and in this process."""

    name: str
    remote: OpenAIEngine
    local: LocalEngine


@pytest.fixture(params=["arithmetic", "generalist"])
async def pair(request: pytest.FixtureRequest, vllm_server: Serve) -> AsyncIterator[Pair]:
    name = request.param
    folder = model_dir(name)
    base_url = vllm_server(name, folder)
    expert = Expert(name, OpenAISpec(base_url), context_tokens=256, max_tokens=64)
    remote = OpenAIEngine(expert)
    local = LocalEngine(replace(expert, engine=LocalSpec(str(folder))), LocalMemory(2.0))
    yield Pair(name, remote, local)
    await remote.stop(10)
    await local.stop(10)


def _questions(name: str) -> list[str]:
    """Twenty texts from the model's own field, or four from each for the generalist."""
    fields = [name] if name in FIELDS else list(FIELDS)
    share = N_QUESTIONS // len(fields)
    questions = zoo_questions("test")
    return [
        question.text
        for field in fields
        for question in [q for q in questions if q.field == field][:share]
    ]


def _request(text: str, **params: object) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), SamplingParams(**params))  # type: ignore[arg-type]


async def _answers(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Completion]:
    return await asyncio.gather(
        *(collect(engine.expert_id, engine.stream(request)) for request in requests)
    )


async def test_vllm_and_local_engine_give_the_same_greedy_answers(pair: Pair) -> None:
    await pair.remote.ensure_ready(30)
    requests = [_request(text) for text in _questions(pair.name)]
    assert len(requests) == N_QUESTIONS
    theirs = await _answers(pair.remote, requests)
    ours = await _answers(pair.local, requests)
    for their, our in zip(theirs, ours, strict=True):
        assert (our.text, our.finish_reason, our.usage) == (
            their.text,
            their.finish_reason,
            their.usage,
        )
    assert len({completion.text for completion in ours}) > 1


async def test_vllm_and_local_engine_agree_on_limits_and_stop_strings(pair: Pair) -> None:
    text = _questions(pair.name)[0]
    (whole,) = await _answers(pair.local, [_request(text)])
    middle = whole.text[len(whole.text) // 2 :][:1]
    requests = [_request(text, max_tokens=1), _request(text, stop=(middle,))]
    theirs = await _answers(pair.remote, requests)
    ours = await _answers(pair.local, requests)
    assert [(c.text, c.finish_reason, c.usage) for c in ours] == [
        (c.text, c.finish_reason, c.usage) for c in theirs
    ]
    assert ours[0].finish_reason == "length"
    assert ours[1].text == whole.text[: whole.text.index(middle)]


async def test_context_overflow_of_vllm_is_recognised(pair: Pair) -> None:
    for request in (_request("x" * 300), _request("hi", max_tokens=300)):
        for engine in (pair.remote, pair.local):
            with pytest.raises(ContextOverflow) as caught:
                await _answers(engine, [request])
            assert caught.value.context_tokens == 256


async def test_long_prompt_without_a_limit_gets_what_is_left_from_both(pair: Pair) -> None:
    # The expert's limit of 64 does not fit after 223 prompt tokens in a context of 256.
    request = _request("x" * 220)
    theirs, ours = await asyncio.gather(
        _answers(pair.remote, [request]), _answers(pair.local, [request])
    )
    assert theirs[0].usage == ours[0].usage
    assert ours[0].usage is not None
    assert ours[0].usage.total_tokens <= 256


async def test_vllm_names_a_model_that_it_does_not_serve(pair: Pair) -> None:
    spec = pair.remote._spec
    stranger = OpenAIEngine(Expert("nobody", OpenAISpec(spec.base_url)))
    with pytest.raises(UpstreamError, match="nobody") as caught:
        await _answers(stranger, [_request("hi")])
    assert caught.value.status == 404
    await stranger.stop(10)
