"""What fires inside a local sparse mixture, and who cannot tell of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coe.engines.base import EngineState, collect
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.routed_experts import RoutedExperts, Traced
from coe.engines.scripted import ScriptedEngine
from coe.engines.tracing import trace
from coe.engines.vllm import VllmEngine
from coe.errors import ConfigError, ContextOverflow, UpstreamError
from coe.experts import Expert, LocalSpec, OpenAISpec, ScriptedSpec, VllmSpec
from coe.types import GenerationRequest, Usage
from coe.zoo.questions import FIELDS, zoo_questions

Ask = Callable[..., GenerationRequest]
TEXTS = ("What is 12 + 30?", "the capital of France", "Reverse 'house'.", "é€ x")


def _engine(folder: Path) -> LocalEngine:
    expert = Expert("e", LocalSpec(str(folder)), context_tokens=256, max_tokens=40)
    return LocalEngine(expert, LocalMemory(1.0))


@pytest.fixture
def weights(repository: Path) -> Path:
    return repository / "coe" / "zoo" / "weights" / "generalist"


@pytest.fixture
async def generalist(weights: Path) -> AsyncIterator[LocalEngine]:
    made = _engine(weights)
    yield made
    await made.stop(10)


async def test_traced_text_and_usage_are_those_of_the_stream(
    generalist: LocalEngine, ask: Ask
) -> None:
    for text in TEXTS:
        completion = await collect("e", generalist.stream(ask(text)))
        traced = await trace(generalist, ask(text))
        assert (traced.text, traced.usage) == (completion.text, completion.usage)
        assert traced.text


async def test_traced_sampling_and_stop_strings_are_those_of_the_stream(
    generalist: LocalEngine, ask: Ask
) -> None:
    for params in ({"temperature": 1.5, "seed": 3}, {"stop": ("ar",)}, {"max_tokens": 1}):
        completion = await collect("e", generalist.stream(ask(TEXTS[1], **params)))
        traced = await trace(generalist, ask(TEXTS[1], **params))
        assert (traced.text, traced.usage) == (completion.text, completion.usage)
        assert len(traced.completion.chosen) == traced.usage.completion_tokens


async def test_chosen_experts_are_those_that_the_model_itself_takes(
    generalist: LocalEngine, weights: Path, ask: Ask
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    for text in TEXTS:
        turns = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        traced = await trace(generalist, ask(text))
        taken = _taken(model, prompt, traced.usage.completion_tokens)
        assert np.array_equal(np.sort(traced.routed_experts.chosen), np.sort(taken))


def _taken(model: Any, prompt: Any, n_tokens: int) -> npt.NDArray[np.int64]:
    """What the gates hand to the experts over prompt and answer, read in one pass."""
    import torch

    layers: list[Any] = []

    def keep(module: object, inputs: object, output: Any) -> None:
        layers.append(output[2])

    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=n_tokens, do_sample=False)
        hooks = [layer.mlp.gate.register_forward_hook(keep) for layer in model.model.layers]
        model(input_ids=ids[:, :-1])
    for hook in hooks:
        hook.remove()
    taken: npt.NDArray[np.int64] = torch.stack(layers, dim=1).numpy()
    return taken


async def test_prompt_and_completion_share_the_passes(generalist: LocalEngine, ask: Ask) -> None:
    traced = await trace(generalist, ask(TEXTS[0]))
    usage = traced.usage
    assert traced.n_experts == 8
    assert traced.completion.chosen.shape == (usage.completion_tokens, 3, 2)
    assert traced.prompt.chosen.shape == (usage.prompt_tokens - 1, 3, 2)
    counts = traced.completion.counts(8)
    assert counts.shape == (3, 8)
    assert counts.sum(axis=1).tolist() == [2 * usage.completion_tokens] * 3
    assert counts.max() <= usage.completion_tokens, "a token chooses no expert twice"


async def test_traces_and_streams_do_not_disturb_each_other(
    generalist: LocalEngine, ask: Ask
) -> None:
    alone = [await trace(generalist, ask(text)) for text in TEXTS]
    traces = asyncio.gather(*(trace(generalist, ask(text)) for text in TEXTS))
    streams = asyncio.gather(*(collect("e", generalist.stream(ask(text))) for text in TEXTS))
    assert [done.text for done in await streams] == [done.text for done in alone]
    for before, after in zip(alone, await traces, strict=True):
        assert before.text == after.text
        assert np.array_equal(before.routed_experts.chosen, after.routed_experts.chosen)


async def test_different_fields_fire_different_inner_experts(
    generalist: LocalEngine, ask: Ask
) -> None:
    """Halves of two fields lie further apart than halves of one, in every layer."""
    halves = {}
    for field in FIELDS:
        asked = [q.text for q in zoo_questions("test") if q.field == field][:12]
        loads = [(await trace(generalist, ask(text))).completion.load(8) for text in asked]
        # The skills of a field take turns, so that both halves have all of them.
        halves[field] = (np.mean(loads[:6], axis=0), np.mean(loads[6:], axis=0))
    within = np.mean([_distance(*both) for both in halves.values()], axis=0)
    pairs = combinations(halves.values(), 2)
    between = np.mean([_distance(one[0], other[1]) for one, other in pairs], axis=0)
    assert (between > 1.5 * within).all(), (between, within)


def _distance(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Total variation distance in each layer."""
    distance: npt.NDArray[np.float64] = np.abs(first - second).sum(axis=-1) / 2
    return distance


async def test_a_dense_model_is_told_to_have_no_inner_experts(tiny_model: Path, ask: Ask) -> None:
    engine = _engine(tiny_model)
    with pytest.raises(
        ConfigError, match=r"'e' has no inner experts: its model \(qwen3\) is dense"
    ):
        await trace(engine, ask())
    await engine.stop(30.0)  # It is not taken for busy any more.


async def test_a_model_that_corrects_its_logits_is_refused(tmp_path: Path, ask: Ask) -> None:
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM
    from transformers.utils import logging

    from coe.zoo.tokenizer import VOCAB_SIZE, build_tokenizer

    logging.disable_progress_bar()
    config = Glm4MoeConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=16, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1,
    )  # fmt: skip
    Glm4MoeForCausalLM(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    engine = _engine(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read from router logits"):
        await trace(engine, ask())
    await engine.stop(30.0)


async def test_a_prompt_that_does_not_fit_is_refused_as_by_the_stream(
    generalist: LocalEngine, ask: Ask
) -> None:
    with pytest.raises(ContextOverflow):
        await trace(generalist, ask("word " * 100))


@pytest.mark.parametrize("kind", ["openai", "scripted"])
async def test_engines_of_others_cannot_be_traced(kind: str, ask: Ask) -> None:
    engine = (
        OpenAIEngine(Expert("far", OpenAISpec("http://127.0.0.1:9/v1")))
        if kind == "openai"
        else ScriptedEngine(Expert("far", ScriptedSpec()))
    )
    with pytest.raises(ConfigError, match=r"'far' cannot be traced: only experts that CoE runs"):
        await trace(engine, ask())


def _vllm(folder: Path, model: str, **flags: bool) -> VllmEngine:
    quick = {"fake-load-s": 0.0, "fake-step-s": 0.001}
    command = (sys.executable, "-m", "coe.engines.fake_vllm")
    spec = VllmSpec(model, command, {**quick, **flags}, drain_s=0.1)
    return VllmEngine(Expert("e", spec), folder, startup_timeout_s=30.0)


async def test_a_vllm_expert_gives_the_same_kind_of_trace(
    tmp_path: Path, weights: Path, ask: Ask
) -> None:
    engine = _vllm(tmp_path, str(weights), enable_return_routed_experts=True)
    try:
        traced = await trace(engine, ask("hello there"))
    finally:
        await engine.stop(5)
    assert traced.text == "e has read: hello there"
    # The fake tells of the answer's tokens alone, and of experts 0 and 1; the folder knows more.
    assert len(traced.completion.chosen) == traced.usage.completion_tokens > 0
    assert len(traced.prompt.chosen) == 0
    assert traced.n_experts == 8
    assert traced.completion.load(8)[:, :2].tolist() == [[0.5, 0.5]] * 2


async def test_a_vllm_expert_without_the_flag_is_not_even_started(tmp_path: Path, ask: Ask) -> None:
    engine = _vllm(tmp_path, "m")
    with pytest.raises(ConfigError, match=r"enable-return-routed-experts: true"):
        await trace(engine, ask())
    assert engine.state is EngineState.STOPPED


def test_the_passes_of_a_trace_are_divided_by_what_was_generated() -> None:
    chosen = np.arange(5).reshape(5, 1, 1)
    traced = Traced("", Usage(4, 2), RoutedExperts(chosen), 5)
    assert traced.prompt.chosen.ravel().tolist() == [0, 1, 2]
    assert traced.completion.chosen.ravel().tolist() == [3, 4]
    assert traced.completion.counts(5).tolist() == [[0, 0, 0, 1, 1]]


def test_numbers_below_zero_are_no_experts() -> None:
    import base64
    import io

    from coe.engines.routed_experts import read_routed_experts

    buffer = io.BytesIO()
    np.save(buffer, np.array([[[-1, 0]]]))
    with pytest.raises(UpstreamError, match="below 0"):
        read_routed_experts("e", {"routed_experts": base64.b64encode(buffer.getvalue()).decode()})
