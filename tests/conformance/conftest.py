"""Gateways to be asked as their description says, and as other people's clients ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import openai
import pytest
from starlette.types import ASGIApp

from coe.composition import Composition
from coe.engines.base import Engine, EngineState
from coe.engines.fake_features import FakeFeatures
from coe.engines.openai import OpenAIEngine
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, OpenAISpec, Price, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.service.app import create_app
from coe.service.server import base_url, bind, server_for
from coe.types import Delta, GenerationRequest, Query

Compose = Callable[..., Composition]
Serve = Callable[[ASGIApp], AbstractContextManager[str]]
Ask = Callable[..., AbstractContextManager[openai.OpenAI]]
_PATIENCE_S = 20.0
_ROOMY_TOKENS = 2**31


class NamedScorer:
    """An expert whose id occurs in the query scores 1, the others 0."""

    name = "named"

    def __init__(self, expert_ids: tuple[str, ...]) -> None:
        self.expert_ids = expert_ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [[float(id_ in query.text) for id_ in self.expert_ids] for query in queries]
        )


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Makes a composition of engines given, and of `sums` and `lands`, who have room for all."""

    def build(*engines: Engine, price: Price | None = None) -> Composition:
        scripts = {
            "sums": ScriptedSpec(answers={r"(\d+) \+ (\d+)": r"\1 plus \2 it is"}, default="a sum"),
            "lands": ScriptedSpec(default="Lima it is"),
        }
        experts = [
            Expert(expert_id, script, context_tokens=_ROOMY_TOKENS, price=price)
            for expert_id, script in scripts.items()
        ]
        running: dict[str, Engine] = {expert.id: ScriptedEngine(expert) for expert in experts}
        running |= {engine.expert_id: engine for engine in engines}
        experts += [Expert(engine.expert_id, ScriptedSpec()) for engine in engines]
        pool = ExpertPool(tuple(experts))
        return Composition(Router(NamedScorer(pool.ids), TopK(1), pool), running)

    return build


class HangingEngine:
    """Never answers."""

    expert_id = "hanging"
    state = EngineState.READY

    async def ensure_ready(self, timeout_s: float) -> None:
        return

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        await asyncio.Event().wait()
        yield Delta()

    async def stop(self, timeout_s: float) -> None:
        return


@dataclass(frozen=True)
class Features:
    """A gateway before a server that can do everything, and a client that never asks twice."""

    url: str
    client: openai.OpenAI
    server: FakeFeatures


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serves an app on a free loopback port in a thread, for the length of a block."""

    @contextmanager
    def run(app: ASGIApp) -> Iterator[str]:
        ready = threading.Event()
        server = server_for(app, shutdown_timeout_s=1, on_ready=ready.set)
        with bind("127.0.0.1", 0) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                assert ready.wait(_PATIENCE_S)
                yield base_url(listener)
            finally:
                server.should_exit = True
                thread.join(_PATIENCE_S)

    return run


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Makes clients of a gateway, for the length of a block."""

    @contextmanager
    def make(
        url: str, key: str = "none", retries: int = 0, timeout_s: float = 60.0
    ) -> Iterator[openai.OpenAI]:
        with (
            openai.DefaultHttpxClient(trust_env=False) as http,
            openai.OpenAI(
                base_url=f"{url}/v1",
                api_key=key,
                max_retries=retries,
                timeout=timeout_s,
                http_client=http,
            ) as client,
        ):
            yield client

    return make


@contextmanager
def _serving(server: FakeFeatures) -> Iterator[str]:
    """Where the server listens, in a thread of its own."""
    listening: list[str] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def run() -> None:
        async with server.serve() as url:
            listening.append(url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S)
        yield listening[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(_PATIENCE_S)
        loop.close()


@pytest.fixture(scope="module")
def features(compose: Compose, serve: Serve, ask: Ask) -> Iterator[Features]:
    server = FakeFeatures()
    with _serving(server) as upstream:
        engine = OpenAIEngine(Expert("features", OpenAISpec(upstream)))
        with serve(create_app(compose(engine))) as url, ask(url) as client:
            yield Features(url, client, server)


@pytest.fixture(scope="module")
def hanging(compose: Compose, serve: Serve) -> Iterator[str]:
    """Where a gateway listens whose expert `hanging` never answers."""
    with serve(create_app(compose(HangingEngine()))) as url:
        yield url
