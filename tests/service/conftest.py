"""A gateway over scripted experts: in this process, and on a real loopback socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import httpx2 as httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from coe.composition import Composition
from coe.engines.base import Engine, EngineState
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.service.app import create_app
from coe.service.server import base_url, bind, server_for
from coe.types import Delta, GenerationRequest, Query, Usage

EXPERTS: tuple[Expert, ...] = (
    Expert(
        "sums",
        ScriptedSpec(answers={r"(\d+) \+ (\d+)": r"\1 plus \2 it is"}, default="a number"),
        description="adds",
        skills=("arithmetic",),
        context_tokens=64,
        max_tokens=16,
    ),
    Expert(
        "lands/capitals", ScriptedSpec(answers={r"of (\w+)": r"the heart of \1"}, default="Lima")
    ),
    Expert("faulty", ScriptedSpec(default="one two three four", fail_after_tokens=2)),
    Expert("broken", ScriptedSpec(default="never said", fail_after_tokens=0)),
)


class NamedScorer:
    """An expert whose id occurs in the query scores 1, the others 0."""

    name = "named"

    def __init__(self, expert_ids: tuple[str, ...]) -> None:
        self.expert_ids = expert_ids

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.array(
            [[float(id_ in query.text) for id_ in self.expert_ids] for query in queries]
        )


class LineEngine:
    """Streams given deltas in order; an exception among them is raised at its place."""

    state = EngineState.READY

    def __init__(self, expert_id: str, line: Sequence[Delta | Exception]) -> None:
        self.expert_id = expert_id
        self._line = line

    async def ensure_ready(self, timeout_s: float) -> None:
        return

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        for item in self._line:
            if isinstance(item, Exception):
                raise item
            yield item

    async def stop(self, timeout_s: float) -> None:
        return


class HangingEngine(ScriptedEngine):
    """A scripted expert that says a few words and then hangs until it is cancelled.

    The events are seen from other threads.
    """

    def __init__(self, expert_id: str, n_words: int) -> None:
        super().__init__(Expert(expert_id, ScriptedSpec(default="word " * 8)), self._pace)
        self._n_words_left = n_words
        self.hung = threading.Event()
        self.released = threading.Event()

    async def _pace(self, seconds: float) -> None:
        # The first call is the load.
        self._n_words_left -= 1
        if self._n_words_left >= -1:
            return
        self.hung.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.released.set()


@dataclass(frozen=True)
class Fakes:
    """What tests build gateways from."""

    line: type[LineEngine] = LineEngine
    hanging: type[HangingEngine] = HangingEngine
    scorer: type[NamedScorer] = NamedScorer


@dataclass
class Live:
    """A gateway on a loopback socket."""

    url: str
    stop: Callable[[], None]


Compose = Callable[..., Composition]
Serve = Callable[..., AbstractContextManager[Live]]


@pytest.fixture(scope="session")
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture(scope="session")
def compose() -> Compose:
    """Makes a composition of the usual scripted experts, or of the engines given."""

    def build(engines: Mapping[str, Engine] | None = None, *, k: int = 1) -> Composition:
        experts = EXPERTS
        if engines is not None:
            experts = tuple(Expert(expert_id, ScriptedSpec()) for expert_id in engines)
        pool = ExpertPool(experts)
        running = engines or {expert.id: ScriptedEngine(expert) for expert in experts}
        return Composition(Router(NamedScorer(pool.ids), TopK(k), pool), running)

    return build


@pytest.fixture
async def client(compose: Compose) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the usual gateway in this process."""
    transport = httpx.ASGITransport(create_app(compose()))
    async with httpx.AsyncClient(transport=transport, base_url="http://coe") as client:
        yield client


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serves an app on a free loopback port in a thread, for the length of a block."""

    @contextmanager
    def run(app: Starlette, shutdown_timeout_s: int = 10) -> Iterator[Live]:
        ready = threading.Event()
        server = server_for(app, shutdown_timeout_s=shutdown_timeout_s, on_ready=ready.set)
        with bind("127.0.0.1", 0) as listener:
            url = base_url(listener)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            try:
                assert ready.wait(20)
                yield Live(url, stop)
            finally:
                stop()

    return run


@pytest.fixture(scope="module")
def live(serve: Serve, compose: Compose) -> Iterator[Live]:
    """The usual gateway on a socket, one for a module."""
    with serve(create_app(compose())) as live:
        yield live


@pytest.fixture(scope="session")
def whole() -> tuple[Delta, ...]:
    """A short answer that ends as it should."""
    return (Delta("one "), Delta("two"), Delta(finish_reason="stop", usage=Usage(3, 2)))
