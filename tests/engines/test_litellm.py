"""Hosted providers by way of litellm, which is played by what it would give."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.litellm import (
    LitellmEngine,
    load_acompletion,
    refuse_infected,
)
from coe.engines.upstream_busy import UpstreamBusy
from coe.errors import (
    CoeError,
    ConfigError,
    ContextOverflow,
    RequestError,
    StartupError,
    UpstreamError,
    UpstreamTimeout,
)
from coe.experts import Expert, LitellmSpec, ScriptedSpec
from coe.types import Delta, GenerationRequest, Usage

Ask = Callable[..., GenerationRequest]


class Chunk:
    """As much of litellm's `ModelResponseStream` as is read."""

    def __init__(self, text: str | None = None, reason: str | None = None, **more: object) -> None:
        delta = {} if text is None else {"content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        self._chunk: dict[str, object] = {"choices": [choice], **more}

    def model_dump(self, exclude_none: bool) -> dict[str, object]:
        assert exclude_none
        return self._chunk


class Chunks:
    """As much of litellm's `CustomStreamWrapper` as is used; an exception among them is raised."""

    def __init__(self, items: Sequence[Chunk | Exception | None], reason: str | None) -> None:
        self._items = list(items)
        self.received_finish_reason = reason
        self.intermittent_finish_reason: str | None = None
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if not self._items:
            raise StopAsyncIteration
        item = self._items.pop(0)
        if item is None:
            await asyncio.Event().wait()  # silent for ever
        if isinstance(item, Exception):
            raise item
        assert item is not None
        return item

    async def aclose(self) -> None:
        self.is_closed = True


class Provider:
    """Plays `litellm.acompletion` and keeps what it was called with."""

    def __init__(self, *items: Chunk | Exception | None, reason: str | None = "stop") -> None:
        self.chunks = Chunks(items, reason)
        self.refusal: Exception | None = None
        self.calls: list[dict[str, Any]] = []

    async def __call__(self, **arguments: Any) -> Chunks:
        self.calls.append(arguments)
        if self.refusal is not None:
            raise self.refusal
        return self.chunks


class ProviderError(Exception):
    """Of the shape that litellm's have: a status, and headers in a place of its own."""

    def __init__(self, words: str, status: int | None = None, **headers: str) -> None:
        super().__init__(words)
        self.status_code = status
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.litellm_response_headers = named or None
        self.response: object = None


class Timeout(ProviderError): ...


class ContextWindowExceededError(ProviderError): ...


class MidStreamFallbackError(ProviderError): ...


def whole() -> list[Chunk]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return [Chunk("one"), Chunk(" two"), Chunk(reason="stop"), Chunk(usage=usage)]


def engine_on(provider: Provider, **spec: object) -> LitellmEngine:
    told = LitellmSpec("mistral/small", **spec)  # type: ignore[arg-type]
    expert = Expert("e", told, context_tokens=100, max_tokens=40)
    return LitellmEngine(expert, provider)


async def failure(provider: Provider, request: GenerationRequest, **spec: object) -> CoeError:
    with pytest.raises(CoeError) as caught:
        await collect("e", engine_on(provider, **spec).stream(request))
    return caught.value


async def test_litellm_streams_text_and_ends_with_reason_and_usage(ask: Ask) -> None:
    provider = Provider(*whole())
    deltas = [delta async for delta in engine_on(provider).stream(ask())]
    assert deltas == [
        Delta("one"),
        Delta(" two"),
        Delta(finish_reason="stop", usage=Usage(3, 2)),
    ]
    assert provider.chunks.is_closed


async def test_litellm_asks_what_the_request_and_the_expert_say(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cret")
    provider = Provider(*whole())
    engine = engine_on(
        provider, api_key_env="SOME_API_KEY", params={"api_base": "http://x/v1"}, timeout_s=9.0
    )
    await collect("e", engine.stream(ask("hello", seed=4, top_p=0.5, stop=("x",))))
    assert provider.calls == [
        {
            "model": "mistral/small",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 40,
            "temperature": 0.0,
            "top_p": 0.5,
            "seed": 4,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "timeout": 9.0,
            "num_retries": 0,
            "max_retries": 0,
            "api_key": "s3cret",
            "api_base": "http://x/v1",
        }
    ]


async def test_litellm_sends_only_what_the_request_says(ask: Ask) -> None:
    provider = Provider(*whole())
    await collect("e", engine_on(provider).stream(ask(max_tokens=7)))
    assert provider.calls[0]["max_tokens"] == 7
    assert provider.calls[0].keys().isdisjoint({"api_key", "seed", "stop", "top_p"})


async def test_litellm_does_not_believe_an_end_that_was_made_up(ask: Ask) -> None:
    provider = Provider(*whole(), reason=None)
    error = await failure(provider, ask())
    assert isinstance(error, UpstreamError)
    assert "without a finish reason" in str(error)
    provider = Provider(*whole(), reason=None)
    provider.chunks.intermittent_finish_reason = "stop"
    assert (await collect("e", engine_on(provider).stream(ask()))).text == "one two"


async def test_litellm_closes_the_answer_that_its_reader_leaves(ask: Ask) -> None:
    provider = Provider(Chunk("one"), None)
    stream = cast(AsyncGenerator[Delta, None], engine_on(provider).stream(ask()))
    await anext(stream)
    await stream.aclose()
    assert provider.chunks.is_closed


async def test_litellm_gives_a_silent_provider_up_and_closes_the_answer(ask: Ask) -> None:
    provider = Provider(Chunk("one"), None)
    error = await failure(provider, ask(), timeout_s=0.001)
    assert isinstance(error, UpstreamTimeout)
    assert provider.chunks.is_closed


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (Timeout("late", 408), UpstreamTimeout, "no answer within 120 s"),
        (ProviderError("no such model", 404), UpstreamError, "status 404: no such model"),
        (ProviderError("bad key s3cret", 401), UpstreamError, "status 401: bad key …"),
        (ProviderError("litellm.Oops: bad", 400), RequestError, "refuses this request: Oops: bad"),
        (
            ProviderError("maximum context length is 64 tokens, you asked for 80", 400),
            ContextOverflow,
            "context of 64 tokens and this request needs 80",
        ),
        (
            ContextWindowExceededError("prompt is too long", 400),
            ContextOverflow,
            "context of 100 tokens and this request needs at least 101",
        ),
        (MidStreamFallbackError("boom", 400), UpstreamError, "in the middle of its answer: boom"),
        (ProviderError("slow", 429), UpstreamError, "status 429: slow"),
        (ProviderError("at http://u:p@x/v1"), UpstreamError, "ProviderError: at http://x/v1"),
        (ProviderError("LLM Provider NOT provided.", 400), StartupError, "as provider/name"),
        (KeyError("choices"), UpstreamError, "KeyError: 'choices'"),
    ],
)
async def test_litellm_tells_what_its_provider_raises_as_an_engine_does(
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[CoeError],
    words: str,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cret")
    refusing = Provider()
    refusing.refusal = raised
    for provider in (refusing, Provider(Chunk("one"), raised)):
        error = await failure(provider, ask(), api_key_env="SOME_API_KEY")
        assert type(error) is kind
        assert words in str(error)
        assert "s3cret" not in str(error)


@pytest.mark.parametrize("status", [429, 503])
async def test_litellm_says_when_a_busy_provider_wants_to_be_asked_again(
    ask: Ask, status: int
) -> None:
    kept_apart = ProviderError("slow down", status, Retry_After="7")
    in_response = ProviderError("slow down", status)
    in_response.response = SimpleNamespace(headers={"Retry-After": "7"})
    for refusal in (kept_apart, in_response):
        provider = Provider()
        provider.refusal = refusal
        error = await failure(provider, ask())
        assert isinstance(error, UpstreamBusy)
        assert (error.status, error.retry_after_s) == (status, 7.0)


async def test_litellm_names_the_variable_of_a_missing_key(ask: Ask) -> None:
    provider = Provider(*whole())
    engine = engine_on(provider, api_key_env="NOT_THERE_API_KEY")
    with pytest.raises(StartupError, match="NOT_THERE_API_KEY"):
        await engine.ensure_ready(5)
    with pytest.raises(StartupError, match="NOT_THERE_API_KEY"):
        await collect("e", engine.stream(ask()))
    assert provider.calls == []


async def test_litellm_names_the_variable_of_a_key_that_went_away(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cret")
    engine = engine_on(Provider(*whole()), api_key_env="SOME_API_KEY")
    await engine.ensure_ready(5)
    monkeypatch.delenv("SOME_API_KEY")
    with pytest.raises(StartupError, match="SOME_API_KEY"):
        await collect("e", engine.stream(ask()))


async def test_litellm_engine_starts_and_stops_without_asking_anybody() -> None:
    provider = Provider()
    engine = engine_on(provider)
    states = [engine.state]
    await engine.ensure_ready(5)
    states.append(engine.state)
    await engine.stop(5)
    states.append(engine.state)
    assert states == [EngineState.STOPPED, EngineState.READY, EngineState.STOPPED]
    assert provider.calls == []


@pytest.mark.parametrize("name", ["api_key", "model", "stream", "temperature"])
def test_litellm_refuses_params_that_are_not_for_them(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot hold '{name}'"):
        engine_on(Provider(), params={name: 1})


def test_litellm_engine_refuses_an_expert_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="not of kind 'litellm'"):
        LitellmEngine(Expert("e", ScriptedSpec()))


@pytest.mark.parametrize("installed", ["1.82.7", "1.82.8"])
def test_litellm_refuses_the_releases_that_steal_keys(installed: str) -> None:
    with pytest.raises(StartupError, match=rf"litellm {installed} .* steals credentials"):
        refuse_infected("e", installed)


@pytest.mark.parametrize("installed", ["1.82.6", "1.83.0", "1.106.2"])
def test_litellm_takes_other_releases(installed: str) -> None:
    refuse_infected("e", installed)


def test_litellm_says_how_to_install_it_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No distribution can be found on an empty path, whatever is installed.
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(StartupError, match=r'pip install "coe-router\[litellm\]"'):
        load_acompletion("e")
    assert "litellm" not in sys.modules
