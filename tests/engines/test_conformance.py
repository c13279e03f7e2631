"""One suite for every kind of engine: what `coe.engines.base.Engine` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import cast

import pytest

from coe.engines.base import Engine, EngineState, collect
from coe.errors import CoeError, UpstreamError
from coe.types import Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]


async def _deltas(engine: Engine, request: GenerationRequest) -> list[Delta]:
    return [delta async for delta in engine.stream(request)]


async def _text(engine: Engine, request: GenerationRequest) -> str:
    return (await collect("e", engine.stream(request))).text


async def test_stream_ends_with_its_only_finish_delta_which_carries_usage(
    engine: Engine, ask: Ask
) -> None:
    *pieces, last = await _deltas(engine, ask(max_tokens=20))
    assert pieces
    assert all(piece.text and not piece.finish_reason and not piece.usage for piece in pieces)
    assert last.finish_reason is not None
    assert last.usage is not None
    assert last.usage.prompt_tokens > 0
    assert last.usage.completion_tokens > 0


async def test_stream_makes_the_engine_ready_by_itself(engine: Engine, ask: Ask) -> None:
    assert _state(engine) is EngineState.STOPPED
    await _deltas(engine, ask(max_tokens=2))
    assert _state(engine) is EngineState.READY


async def test_stream_comes_in_pieces(engine: Engine, ask: Ask) -> None:
    deltas = await _deltas(engine, ask())
    assert sum(bool(delta.text) for delta in deltas) > 3


async def test_max_tokens_ends_with_length_and_counts_exactly(engine: Engine, ask: Ask) -> None:
    completion = await collect("e", engine.stream(ask(max_tokens=7)))
    assert completion.finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 7
    whole = await _text(engine, ask())
    assert whole.startswith(completion.text)
    assert len(completion.text) < len(whole)


async def test_stop_string_ends_the_text_before_itself(engine: Engine, ask: Ask) -> None:
    whole = await _text(engine, ask())
    # Of five characters, so that it spans tokens of whatever size.
    stop = whole[8:13]
    completion = await collect("e", engine.stream(ask(stop=("never there", stop))))
    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason == "stop"


async def test_stop_string_that_never_comes_changes_nothing(engine: Engine, ask: Ask) -> None:
    whole = await _text(engine, ask())
    assert await _text(engine, ask(stop=(whole[-4:] + "?",))) == whole


async def test_same_seed_gives_the_same_text(engine: Engine, ask: Ask) -> None:
    request = ask(seed=7, temperature=1.0, max_tokens=30)
    assert await _text(engine, request) == await _text(engine, request)


async def test_eight_streams_at_once_do_not_mix(engine: Engine, ask: Ask) -> None:
    requests = [ask(f"question {n}") for n in range(8)]
    alone = [await _text(engine, request) for request in requests]
    together = await asyncio.gather(*(_text(engine, request) for request in requests))
    assert list(together) == alone
    assert len(set(alone)) == 8


async def test_closing_a_stream_leaves_the_engine_serving(engine: Engine, ask: Ask) -> None:
    whole = await _text(engine, ask())
    stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
    assert (await anext(stream)).text
    await stream.aclose()
    assert await _text(engine, ask()) == whole


async def test_cancelling_a_reader_leaves_the_engine_serving(engine: Engine, ask: Ask) -> None:
    whole = await _text(engine, ask())
    reader = asyncio.create_task(_text(engine, ask()))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await _text(engine, ask()) == whole


async def test_ensure_ready_is_idempotent_and_shared(engine: Engine) -> None:
    await asyncio.gather(*(engine.ensure_ready(30) for _ in range(3)))
    await engine.ensure_ready(30)
    assert _state(engine) is EngineState.READY


async def test_stop_is_idempotent_and_the_engine_starts_again(engine: Engine, ask: Ask) -> None:
    await engine.stop(10)
    whole = await _text(engine, ask())
    await engine.stop(10)
    await engine.stop(10)
    assert _state(engine) is EngineState.STOPPED
    await engine.ensure_ready(30)
    assert _state(engine) is EngineState.READY
    assert await _text(engine, ask()) == whole


async def test_stop_ends_streams_under_way_with_an_error_or_lets_them_end(
    engine: Engine, ask: Ask
) -> None:
    stream = engine.stream(ask())
    await anext(stream)
    await engine.stop(10)
    rest: list[Delta] = []
    try:
        rest = [delta async for delta in stream]
    except UpstreamError:
        return
    assert rest[-1].finish_reason is not None


async def test_request_error_comes_before_any_delta(engine: Engine, ask: Ask) -> None:
    # Refused by engines that count tokens, and no recording has this text.
    with pytest.raises(CoeError):
        await anext(engine.stream(ask("far too long " * 5000)))


async def test_engine_names_its_expert(engine: Engine) -> None:
    assert engine.expert_id == "e"


def _state(engine: Engine) -> EngineState:
    # mypy takes a property for a constant; a call it reads anew.
    return engine.state
