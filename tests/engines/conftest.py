"""A tiny model with random weights, and the four kinds of engine over known answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from coe.engines.base import Engine
from coe.engines.fake_openai import serve
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, LocalSpec, OpenAISpec, ReplaySpec, ScriptedSpec
from coe.types import GenerationRequest, Message, SamplingParams

Ask = Callable[..., GenerationRequest]

# Long enough to be cut by limits and to be in mid-stream when closed.
ANSWER = " ".join(f"word{n}-\\1" for n in range(40))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of two layers; its weights are wide enough apart that greedy text is lively."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    from coe.zoo.tokenizer import END, PAD, VOCAB_SIZE, build_tokenizer

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        eos_token_id=END,
        pad_token_id=PAD,
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def ask() -> Ask:
    def make(text: str = "question 1", id: str = "", **params: object) -> GenerationRequest:
        sampling = SamplingParams(**params)  # type: ignore[arg-type]
        return GenerationRequest((Message("user", text),), sampling, id)

    return make


@pytest.fixture
def scripted_spec() -> ScriptedSpec:
    return ScriptedSpec(answers={r"question (\d+)": ANSWER}, default="none")


@pytest.fixture(params=["scripted", "replay", "local", "openai"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, scripted_spec: ScriptedSpec
) -> AsyncIterator[Engine]:
    """One engine of each kind that answers "question N" at length; stopped afterwards."""
    async with AsyncExitStack() as stack:
        made: Engine
        if request.param == "scripted":
            made = ScriptedEngine(Expert("e", scripted_spec))
        elif request.param == "replay":
            made = ReplayEngine(Expert("e", ReplaySpec(str(_recordings(tmp_path)))))
        elif request.param == "local":
            folder = request.getfixturevalue("tiny_model")
            expert = Expert("e", LocalSpec(str(folder)), context_tokens=256, max_tokens=40)
            made = LocalEngine(expert, LocalMemory(1.0))
        else:
            served = ScriptedEngine(Expert("served", scripted_spec))
            base_url = await stack.enter_async_context(serve(served))
            made = OpenAIEngine(Expert("e", OpenAISpec(base_url)))
        yield made
        await made.stop(10.0)


def _recordings(folder: Path) -> Path:
    path = folder / "answers.jsonl"
    records = [
        {"prompt": f"question {n}", "completion": ANSWER.replace(r"\1", str(n))} for n in range(10)
    ]
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path
