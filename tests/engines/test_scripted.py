"""The shipped fake, on a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import cast

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.playback import pieces
from coe.engines.scripted import ScriptedEngine
from coe.errors import ConfigError, ContextOverflow, StartupError, UpstreamError
from coe.experts import Expert, ReplaySpec, ScriptedSpec
from coe.types import Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize("text", ["", "one", " lead", "trail \n", "a  b\n\nc", "\n"])
def test_pieces_join_to_the_text_again(text: str) -> None:
    assert "".join(pieces(text)) == text


async def test_scripted_answers_by_the_first_pattern_found_with_groups(ask: Ask) -> None:
    spec = ScriptedSpec(answers={r"(\d+)\+0": r"it is \1", r"\d": "a digit"}, default="what?")
    engine = ScriptedEngine(Expert("e", spec))
    texts = [(await collect("e", engine.stream(ask(t)))).text for t in ("7+0", "7", "seven")]
    assert texts == ["it is 7", "a digit", "what?"]
    assert [request.messages[0].content for request in engine.requests] == ["7+0", "7", "seven"]


async def test_scripted_counts_words(ask: Ask) -> None:
    engine = ScriptedEngine(Expert("e", ScriptedSpec(default="one two three")))
    usage = (await collect("e", engine.stream(ask("how many words")))).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 3)


async def test_scripted_loads_and_speaks_at_its_pace(ask: Ask) -> None:
    clock = Clock()
    spec = ScriptedSpec(default="a b c d", tokens_per_s=4.0, load_s=10.0)
    engine = ScriptedEngine(Expert("e", spec), clock.sleep)
    await asyncio.gather(engine.ensure_ready(60), engine.ensure_ready(60))
    assert clock.now_s == 10.0
    await collect("e", engine.stream(ask()))
    assert clock.now_s == 11.0


async def test_scripted_dies_in_mid_stream_where_told(ask: Ask) -> None:
    engine = ScriptedEngine(Expert("e", ScriptedSpec(default="a b c", fail_after_tokens=2)))
    seen: list[Delta] = []

    async def read() -> None:
        async for delta in engine.stream(ask()):
            seen.append(delta)

    with pytest.raises(UpstreamError, match="after 2 tokens"):
        await read()
    assert "".join(delta.text for delta in seen) == "a b"
    assert engine.cancelled == 0


async def test_scripted_counts_streams_closed_early_and_no_others(ask: Ask) -> None:
    engine = ScriptedEngine(Expert("e", ScriptedSpec(default="a b c")))
    await collect("e", engine.stream(ask()))
    assert engine.cancelled == 0
    stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
    await anext(stream)
    await stream.aclose()
    assert engine.cancelled == 1


async def test_scripted_refuses_what_exceeds_its_context(ask: Ask) -> None:
    engine = ScriptedEngine(Expert("e", ScriptedSpec(default="a"), context_tokens=8, max_tokens=4))
    with pytest.raises(ContextOverflow):
        await anext(engine.stream(ask("1 2 3 4 5 6 7 8")))


async def test_late_start_is_a_startup_error_and_goes_on_for_others() -> None:
    gate = asyncio.Event()

    async def until_opened(_: float) -> None:
        await gate.wait()

    engine = ScriptedEngine(Expert("e", ScriptedSpec(load_s=1.0)), until_opened)
    with pytest.raises(StartupError, match="startup_timeout_s"):
        await engine.ensure_ready(0.0)
    assert _state(engine) is EngineState.LOADING
    gate.set()
    await engine.ensure_ready(5.0)
    assert _state(engine) is EngineState.READY


async def test_stop_ends_a_start_and_tells_those_who_wait() -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    engine = ScriptedEngine(Expert("e", ScriptedSpec(load_s=1.0)), never)
    waiting = asyncio.create_task(engine.ensure_ready(60))
    await asyncio.sleep(0)
    await engine.stop(5)
    with pytest.raises(StartupError, match="stopped while it started"):
        await waiting
    assert _state(engine) is EngineState.STOPPED


async def test_failed_start_is_reported_and_tried_again() -> None:
    attempts: list[float] = []

    async def fail_once(seconds: float) -> None:
        attempts.append(seconds)
        if len(attempts) == 1:
            raise StartupError("e", "no luck")

    engine = ScriptedEngine(Expert("e", ScriptedSpec(load_s=1.0)), fail_once)
    with pytest.raises(StartupError, match="no luck"):
        await engine.ensure_ready(5)
    assert _state(engine) is EngineState.FAILED
    await engine.ensure_ready(5)
    assert _state(engine) is EngineState.READY


def test_scripted_names_a_broken_pattern() -> None:
    with pytest.raises(ConfigError, match=r"'\('"):
        ScriptedEngine(Expert("e", ScriptedSpec(answers={"(": "x"})))


@pytest.mark.parametrize("answer", [r"use \cmd", r"\2", r"\g<name>", "\\"])
def test_scripted_names_an_answer_that_cannot_be_filled_in(answer: str) -> None:
    with pytest.raises(ConfigError, match=r"'\(tex\)'") as caught:
        ScriptedEngine(Expert("e", ScriptedSpec(answers={"(tex)": answer})))
    assert repr(answer) in str(caught.value)


async def test_scripted_stream_waits_no_longer_than_it_may(ask: Ask) -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    engine = ScriptedEngine(Expert("e", ScriptedSpec()), never, startup_timeout_s=0.0)
    with pytest.raises(StartupError, match="startup_timeout_s"):
        await collect("e", engine.stream(ask()))
    await engine.stop(5)


def test_scripted_refuses_another_engines_spec() -> None:
    with pytest.raises(ConfigError, match="scripted"):
        ScriptedEngine(Expert("e", ReplaySpec("x")))


def _state(engine: ScriptedEngine) -> EngineState:
    # mypy takes a property for a constant; a call it reads anew.
    return engine.state
