"""The local engine on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import json
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.weights import weights_bytes
from coe.errors import ConfigError, ContextOverflow, RequestError, StartupError, UpstreamError
from coe.experts import Expert, LocalSpec, ScriptedSpec
from coe.types import Completion, Delta, GenerationRequest

Ask = Callable[..., GenerationRequest]
TEXTS = (
    "a",
    "What is 12 + 30?",
    "é€😀 x" * 6,
    "word " * 30,
    "",
    "the capital of France",
    "9 " * 50,
)


def _expert(folder: Path, **spec: object) -> Expert:
    local = LocalSpec(str(folder), **spec)  # type: ignore[arg-type]
    return Expert("e", local, context_tokens=256, max_tokens=40)


@pytest.fixture
async def engine(tiny_model: Path) -> AsyncIterator[LocalEngine]:
    made = LocalEngine(_expert(tiny_model), LocalMemory(1.0))
    yield made
    await made.stop(10)


async def _answers(engine: LocalEngine, requests: list[GenerationRequest]) -> list[Completion]:
    return await asyncio.gather(*(collect("e", engine.stream(r)) for r in requests))


async def test_greedy_text_is_that_of_transformers_generate(
    engine: LocalEngine, tiny_model: Path, ask: Ask
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for text in TEXTS:
        turns = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0]
        generated = ids[prompt["input_ids"].shape[1] :]
        completion = await collect("e", engine.stream(ask(text, max_tokens=32)))
        # A character that the end cut off is dropped, not shown broken.
        assert completion.text == tokenizer.decode(generated, skip_special_tokens=True).rstrip("�")
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == prompt["input_ids"].shape[1]
        assert completion.usage.completion_tokens == len(generated)
        ended = int(generated[-1]) == tokenizer.eos_token_id
        assert completion.finish_reason == ("stop" if ended else "length")


async def test_greedy_answer_does_not_depend_on_its_companions(
    engine: LocalEngine, ask: Ask
) -> None:
    requests = [ask(text, max_tokens=10 + 5 * n) for n, text in enumerate(TEXTS)]
    alone = [(await _answers(engine, [request]))[0] for request in requests]
    together = await _answers(engine, requests)
    assert [(c.text, c.usage) for c in together] == [(c.text, c.usage) for c in alone]
    assert len({c.text for c in alone}) == len(TEXTS)


async def test_request_joins_a_batch_that_is_under_way(engine: LocalEngine, ask: Ask) -> None:
    long, short = ask("word " * 10, max_tokens=150), ask("What is 12 + 30?", max_tokens=5)
    expected = [c.text for c in await _answers(engine, [long])]
    expected += [c.text for c in await _answers(engine, [short])]
    stream = engine.stream(long)
    texts = [(await anext(stream)).text for _ in range(3)]
    late = await collect("e", engine.stream(short))
    # Still generating: the short one neither waited for the long one nor disturbed it.
    assert engine._generation is not None
    texts += [delta.text async for delta in stream]
    assert ["".join(texts), late.text] == expected


async def test_more_requests_than_max_batch_are_all_answered(tiny_model: Path, ask: Ask) -> None:
    engine = LocalEngine(_expert(tiny_model, max_batch=2), LocalMemory(1.0))
    requests = [ask(text, max_tokens=8) for text in TEXTS]
    together = await _answers(engine, requests)
    alone = [(await _answers(engine, [request]))[0] for request in requests]
    assert [c.text for c in together] == [c.text for c in alone]
    await engine.stop(10)


async def test_cancelled_request_leaves_the_batch_and_the_others_finish(
    engine: LocalEngine, ask: Ask
) -> None:
    requests = [ask(text, max_tokens=60) for text in TEXTS[:4]]
    alone = [(await _answers(engine, [request]))[0].text for request in requests]
    doomed = cast(AsyncGenerator[Delta, None], engine.stream(ask("doomed", max_tokens=200)))
    others = asyncio.gather(*(collect("e", engine.stream(r)) for r in requests))
    await anext(doomed)
    await doomed.aclose()
    assert [c.text for c in await others] == alone
    assert not engine._outlets


async def test_seeds_differ_and_repeat_whatever_the_companions(
    engine: LocalEngine, ask: Ask
) -> None:
    requests = [ask("same", seed=n, temperature=1.5, max_tokens=20) for n in range(4)]
    requests.append(ask("same", max_tokens=20))
    together = [c.text for c in await _answers(engine, requests)]
    alone = [(await _answers(engine, [request]))[0].text for request in requests]
    assert together == alone
    assert len(set(together)) == 5


async def test_no_seed_draws_a_fresh_one(engine: LocalEngine, ask: Ask) -> None:
    request = ask("same", temperature=1.5, max_tokens=30)
    first, second = await _answers(engine, [request, request])
    assert first.text != second.text


async def test_tiny_top_p_is_greedy(engine: LocalEngine, ask: Ask) -> None:
    greedy = ask("same", max_tokens=20)
    nucleus = ask("same", max_tokens=20, temperature=5.0, top_p=1e-9, seed=1)
    first, second = await _answers(engine, [greedy, nucleus])
    assert first.text == second.text


async def test_sampling_reaches_every_token_of_the_nucleus_and_no_other() -> None:
    import torch

    from coe.engines.sampling import generator_for, pick
    from coe.types import SamplingParams

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    params = SamplingParams(temperature=1.0, top_p=0.7, seed=0)
    generator = generator_for(params)
    drawn = [pick(logits, [params], [generator])[0] for _ in range(400)]
    assert set(drawn) == {0, 1}
    # 0.5 of 0.8; four standard deviations of 400 draws are 0.097.
    assert abs(drawn.count(0) / 400 - 0.625) < 0.097


async def test_text_never_breaks_a_character(engine: LocalEngine, ask: Ask) -> None:
    request = ask("é€😀 x" * 6, max_tokens=100, temperature=2.0, seed=3)
    deltas = [delta async for delta in engine.stream(request)]
    assert not any(delta.text.endswith("�") for delta in deltas)


async def test_prompt_beyond_the_context_is_refused_with_the_numbers(
    engine: LocalEngine, ask: Ask
) -> None:
    # One byte a token, and three markers around the message.
    with pytest.raises(ContextOverflow) as caught:
        await collect("e", engine.stream(ask("x" * 253)))
    assert (caught.value.needed_tokens, caught.value.context_tokens) == (257, 256)
    with pytest.raises(ContextOverflow) as caught:
        await collect("e", engine.stream(ask("x" * 200, max_tokens=100)))
    assert caught.value.needed_tokens == 303


async def test_answer_without_a_limit_gets_what_is_left(engine: LocalEngine, ask: Ask) -> None:
    completion = await collect("e", engine.stream(ask("x" * 250)))
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= 3
    assert completion.usage.prompt_tokens == 253


async def test_refused_request_does_not_disturb_its_companions(
    engine: LocalEngine, ask: Ask
) -> None:
    good = ask("What is 12 + 30?", max_tokens=10)
    alone = await collect("e", engine.stream(good))
    refused, answered = await asyncio.gather(
        collect("e", engine.stream(ask("x" * 300))),
        collect("e", engine.stream(good)),
        return_exceptions=True,
    )
    assert isinstance(refused, RequestError)
    assert isinstance(answered, Completion)
    assert answered.text == alone.text


async def test_stop_frees_the_weights(engine: LocalEngine, ask: Ask) -> None:
    await collect("e", engine.stream(ask(max_tokens=3)))
    assert engine._model is not None
    weights = weakref.ref(next(iter(engine._model.network.parameters())))
    assert weights() is not None
    await engine.stop(10)
    assert weights() is None
    assert engine.state is EngineState.STOPPED


async def test_stop_ends_a_stream_under_way_with_an_error(engine: LocalEngine, ask: Ask) -> None:
    stream = engine.stream(ask("word " * 10, max_tokens=200))
    await anext(stream)
    await engine.stop(10)

    async def rest() -> None:
        async for _ in stream:
            pass

    with pytest.raises(UpstreamError, match="stopped"):
        await rest()


async def test_experts_that_do_not_fit_together_take_turns(tiny_model: Path, ask: Ask) -> None:
    size_gib = weights_bytes(tiny_model, "float32") / 1024**3
    memory = LocalMemory(size_gib * 1.5)
    a, b = (LocalEngine(Expert(name, LocalSpec(str(tiny_model))), memory) for name in "ab")
    request = ask("What is 12 + 30?", max_tokens=5)
    # The stream of `a` stays open and unread while `b` needs its room.
    stream = a.stream(request)
    first = await anext(stream)
    other = await collect("b", b.stream(request))
    assert memory.residents == ("b",)
    assert (a.state, b.state) == (EngineState.STOPPED, EngineState.READY)
    rest = [delta.text async for delta in stream]
    assert first.text + "".join(rest) == other.text
    await b.stop(10)


async def test_expert_larger_than_the_budget_says_its_size_and_the_key(tiny_model: Path) -> None:
    engine = LocalEngine(_expert(tiny_model), LocalMemory(1e-5))
    with pytest.raises(StartupError, match=r"GiB and `local_memory_gib`"):
        await engine.ensure_ready(30)


async def test_folder_without_a_model_is_a_startup_error(tmp_path: Path) -> None:
    engine = LocalEngine(_expert(tmp_path), LocalMemory(1.0))
    with pytest.raises(StartupError, match=r"config\.json"):
        await engine.ensure_ready(30)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartupError, match="safetensors"):
        await engine.ensure_ready(30)
    assert engine.state is EngineState.FAILED


async def test_model_that_cannot_be_loaded_is_a_startup_error(
    tmp_path: Path, tiny_model: Path
) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    engine = LocalEngine(_expert(tmp_path), LocalMemory(1.0))
    with pytest.raises(StartupError, match="cannot be loaded"):
        await engine.ensure_ready(30)
    assert engine.state is EngineState.FAILED


async def test_missing_transformers_is_a_startup_error_with_the_fix(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    engine = LocalEngine(_expert(tiny_model), LocalMemory(1.0))
    with pytest.raises(StartupError, match=r'pip install "coe-router\[local\]"'):
        await engine.ensure_ready(30)


async def test_late_load_is_a_startup_error_that_names_the_keys(tiny_model: Path) -> None:
    engine = LocalEngine(_expert(tiny_model), LocalMemory(1.0))
    with pytest.raises(StartupError, match=r"startup_timeout_s.*local_memory_gib"):
        await engine.ensure_ready(0.0)
    await engine.ensure_ready(60)
    await engine.stop(10)


def test_local_refuses_another_engines_spec() -> None:
    with pytest.raises(ConfigError, match="local"):
        LocalEngine(Expert("e", ScriptedSpec()), LocalMemory(1.0))
