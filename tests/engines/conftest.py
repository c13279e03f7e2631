"""A tiny model with random weights, an engine of each kind, and servers for one of them."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from coe.engines.base import Engine, collect
from coe.engines.fake_openai import serve
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.openai import OpenAIEngine
from coe.engines.replay import ReplayEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.sse import encode_event
from coe.engines.vllm import VllmEngine
from coe.errors import CoeError
from coe.experts import (
    Expert,
    FlagValue,
    LocalSpec,
    OpenAISpec,
    ReplaySpec,
    ScriptedSpec,
    VllmSpec,
)
from coe.types import GenerationRequest, Message, SamplingParams

Ask = Callable[..., GenerationRequest]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

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


@pytest.fixture(params=["scripted", "replay", "local", "openai", "vllm"])
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
        elif request.param == "vllm":
            made = VllmEngine(Expert("e", _managed(tmp_path, scripted_spec)), tmp_path / "state")
        else:
            served = ScriptedEngine(Expert("served", scripted_spec))
            base_url = await stack.enter_async_context(serve(served))
            made = OpenAIEngine(Expert("e", OpenAISpec(base_url)))
        yield made
        await made.stop(10.0)


def _managed(folder: Path, scripted: ScriptedSpec) -> VllmSpec:
    """A server in a child process that answers like the script, quickly."""
    answers = folder / "answers.json"
    answers.write_text(json.dumps(dict(scripted.answers)))
    command = (sys.executable, "-m", "coe.engines.fake_vllm")
    flags: dict[str, FlagValue] = {
        "fake-load-s": 0.0, "fake-step-s": 0.001, "fake-answers": str(answers),
    }  # fmt: skip
    return VllmSpec("m", command, flags, drain_s=0.1)


def _recordings(folder: Path) -> Path:
    path = folder / "answers.jsonl"
    records = [
        {"prompt": f"question {n}", "completion": ANSWER.replace(r"\1", str(n))} for n in range(10)
    ]
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


class Upstream:
    """OpenAI-compatible servers on loopback that behave as a test says, and engines on them."""

    done = encode_event(b"[DONE]")

    @asynccontextmanager
    async def server(self, chat: Handler, models: Handler | None = None) -> AsyncIterator[str]:
        """Gives the base URL; without `models` there is no such path."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        if models is not None:
            app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/v1"
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def engine(self, base_url: str, **spec: object) -> AsyncIterator[OpenAIEngine]:
        """An engine of expert `e`, stopped afterwards."""
        engine = OpenAIEngine(Expert("e", OpenAISpec(base_url, **spec)))  # type: ignore[arg-type]
        try:
            yield engine
        finally:
            await engine.stop(5)

    def streaming(self, *events: bytes, ends: bool = True) -> Handler:
        """Answers with these events; `ends` False cuts the connection after the last."""

        async def chat(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            for event in events:
                await answer.write(event)
            if not ends:
                assert request.transport is not None
                request.transport.close()
            return answer

        return chat

    def chunk(self, text: str = "", reason: str | None = None, **more: object) -> bytes:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
        return encode_event(orjson.dumps({"choices": [choice], **more}))

    def answering(self, status: int, body: object) -> Handler:
        async def chat(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=orjson.dumps(body))

        return chat

    async def failure(self, chat: Handler, request: GenerationRequest, **spec: object) -> CoeError:
        """What a stream from such a server raises."""
        async with self.server(chat) as base_url, self.engine(base_url, **spec) as engine:
            with pytest.raises(CoeError) as caught:
                await collect("e", engine.stream(request))
        return caught.value

    def nobody(self) -> str:
        """The base URL of a server that is not there."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@pytest.fixture(scope="session")
def upstream() -> Upstream:
    return Upstream()
