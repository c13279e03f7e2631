"""The local engine where a request, a step or a stop goes wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.loading import LoadedModel, load_model
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.errors import ContextOverflow, EngineError, RequestError, StartupError, UpstreamError
from coe.experts import Expert, LocalSpec
from coe.types import Completion, Delta, GenerationRequest, Message

Ask = Callable[..., GenerationRequest]


def _expert(folder: Path) -> Expert:
    return Expert("e", LocalSpec(str(folder)), context_tokens=256, max_tokens=40)


def _loaded(folder: Path) -> LoadedModel:
    return load_model(_expert(folder), LocalSpec(str(folder)), threads=1)


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(1.0)


@pytest.fixture
async def engine(tiny_model: Path, memory: LocalMemory) -> AsyncIterator[LocalEngine]:
    made = LocalEngine(_expert(tiny_model), memory)
    yield made
    await made.stop(10)


async def test_failed_step_leaves_no_cancelled_row_behind(engine: LocalEngine, ask: Ask) -> None:
    def fail_once_alone(_: object, __: object, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[0] == 1:
            raise RuntimeError("no room")

    doomed, other = (
        cast(AsyncGenerator[Delta, None], engine.stream(ask(text, max_tokens=200)))
        for text in ("doomed", "word " * 10)
    )
    await asyncio.gather(anext(doomed), anext(other))
    assert engine._model is not None
    # With two rows under way, a step of one row is the step that dismissed the cancelled one.
    hook = engine._model.network.register_forward_pre_hook(fail_once_alone, with_kwargs=True)
    await doomed.aclose()
    with pytest.raises(UpstreamError, match="no room"):
        await collect("e", other)
    hook.remove()
    assert not engine._outlets
    await engine.stop(10)
    assert (await collect("e", engine.stream(ask(max_tokens=2)))).usage is not None


def test_hopelessly_long_prompt_is_refused_before_it_is_read(tiny_model: Path) -> None:
    unreadable = replace(_loaded(tiny_model), tokenizer=None)
    with pytest.raises(ContextOverflow) as caught:
        unreadable.encode([Message("user", "x" * 1_000_000)])
    assert caught.value.needed_tokens > caught.value.context_tokens == 256
    assert f"needs at least {caught.value.needed_tokens};" in str(caught.value)


def test_no_token_stands_for_more_text_than_the_longest(tiny_model: Path) -> None:
    model = _loaded(tiny_model)
    ids = model.tokenizer.get_vocab().values()
    longest = max(len(model.tokenizer.decode([id_]).encode()) for id_ in ids)
    assert longest == len("<|assistant|>") == model.longest_token_bytes


def test_long_prompt_is_read_without_a_warning(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _loaded(tiny_model)
    # transformers does not pass its records on to the root, where they would be caught.
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert len(model.encode([Message("user", "x" * 300)])) == 303
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [("\ud800", RequestError, "surrogate"), ("odd", UpstreamError, "cannot read this prompt")],
)
async def test_prompt_that_cannot_be_read_does_not_disturb_its_companions(
    engine: LocalEngine, ask: Ask, text: str, error: type[Exception], words: str
) -> None:
    good = ask("What is 12 + 30?", max_tokens=10)
    alone = await collect("e", engine.stream(good))
    assert engine._model is not None
    tokenizer = engine._model.tokenizer
    # Adding a number to a text raises a TypeError, which no template is meant to.
    trap = "{% if messages[0]['content'] == 'odd' %}{{ 1 + 'x' }}{% endif %}"
    tokenizer.chat_template = trap + tokenizer.chat_template
    answered, refused = await asyncio.gather(
        collect("e", engine.stream(good)),
        collect("e", engine.stream(ask(text))),
        return_exceptions=True,
    )
    assert isinstance(refused, error)
    assert words in str(refused)
    assert isinstance(answered, Completion)
    assert answered.text == alone.text


async def test_stop_that_is_late_leaves_a_true_state_and_frees_the_weights(
    engine: LocalEngine, memory: LocalMemory, ask: Ask
) -> None:
    await collect("e", engine.stream(ask(max_tokens=3)))
    assert engine._model is not None
    weights = weakref.ref(next(iter(engine._model.network.parameters())))
    gate = threading.Event()
    memory.worker.submit(gate.wait)
    try:
        with pytest.raises(EngineError, match="still busy"):
            await engine.stop(0.0)
        assert (engine.state, memory.residents) == (EngineState.STOPPED, ())
        assert memory.resident_bytes == 0
    finally:
        gate.set()
    await engine.stop(10)
    # What was submitted before this has run after it.
    await asyncio.get_running_loop().run_in_executor(memory.worker, str)
    assert weights() is None
    assert memory.resident_bytes == 0


async def test_stream_waits_no_longer_than_it_may(
    tiny_model: Path, memory: LocalMemory, ask: Ask
) -> None:
    engine = LocalEngine(_expert(tiny_model), memory, startup_timeout_s=0.0)
    with pytest.raises(StartupError, match="startup_timeout_s"):
        await collect("e", engine.stream(ask()))
    await engine.ensure_ready(60)
    assert (await collect("e", engine.stream(ask(max_tokens=2)))).usage is not None
    await engine.stop(10)
