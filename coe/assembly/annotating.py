"""The expert that names skills for the `symbolic` scorer, on an event loop of its own."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock, Thread, current_thread

from coe.assembly.engines import engine_for
from coe.assembly.scorers import ScorerKind, configured_kind
from coe.config import Config
from coe.engines.base import Engine, collect
from coe.engines.local_memory import LocalMemory
from coe.errors import ConfigError, UpstreamError
from coe.experts import VllmLoraSpec, VllmSpec
from coe.routers.annotators import Annotator, Complete
from coe.routers.artifacts import Artifact
from coe.routers.symbolic import SymbolicScorer
from coe.routers.symbolic_keywords import fitting_annotator, keyword_expert, serving_annotator
from coe.types import Completion, GenerationRequest

_STOP_S = 5.0


def fitting_kind(config: Config, annotator: str | None, annotations: Path | None) -> ScorerKind:
    """The configured scorer, told skills by the named expert while it is fitted.

    `annotations` keeps what the expert named, so that an interrupted fit goes on from there.
    """
    kind = configured_kind(config)
    if annotator is None:
        return kind
    if config.router.scorer != SymbolicScorer.name:
        raise ConfigError(
            f"only `{SymbolicScorer.name}` asks an expert for skills",
            file=str(config.file),
            key="router.scorer",
        )
    opener = expert_opener(config, annotator)
    return annotated_kind(fitting_annotator(annotator, opener, annotations))


def serving_kind(config: Config, artifact: Artifact) -> ScorerKind:
    """The configured scorer, asking the expert that it was fitted with."""
    expert_id = keyword_expert(artifact.manifest)
    if expert_id is None:
        return configured_kind(config)
    return annotated_kind(serving_annotator(expert_id, expert_opener(config, expert_id)))


def asks_an_expert(artifact: Artifact) -> bool:
    """Whether every query is shown to an expert before it is routed."""
    return keyword_expert(artifact.manifest) is not None


def expert_opener(config: Config, expert_id: str) -> KeptExpert:
    """Opens the expert with an engine of its own: those that serve belong to another event loop."""
    expert = config.pool.expert(expert_id)
    if isinstance(expert.engine, VllmSpec | VllmLoraSpec):
        raise ConfigError(
            f"expert {expert_id!r} is started by CoE itself, and a second server for skills would "
            "not be under its scheduler; name an endpoint or a local expert",
            file=str(config.file),
            key="annotator",
        )

    def engine() -> Engine:
        memory = LocalMemory(config.local_memory_gib, config.local_threads)
        return engine_for(expert, memory, config)

    return KeptExpert(expert_id, engine)


class KeptExpert:
    """An `OpenExpert` whose one engine outlives each opening, so that it loads once.

    It starts when it is first asked, in a thread, and stops with `close`, when nobody holds this
    any more, or when the interpreter ends. Safe to share between threads.
    """

    def __init__(self, expert_id: str, make_engine: Callable[[], Engine]) -> None:
        self._expert_id = expert_id
        self._make_engine = make_engine
        self._lock = Lock()
        self._engine_loop: tuple[Engine, asyncio.AbstractEventLoop] | None = None
        self._end: Callable[[], object] = lambda: None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Complete]:
        yield self._complete

    async def _complete(self, request: GenerationRequest) -> Completion:
        """Cancelled here, it is cancelled there."""
        engine, loop = self._started()
        answer = collect(self._expert_id, engine.stream(request))
        asked = asyncio.run_coroutine_threadsafe(answer, loop)
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise UpstreamError(self._expert_id, "was stopped while it answered") from None

    def close(self) -> None:
        """Stops the engine and waits for it; asked again, the expert starts again."""
        with self._lock:
            self._engine_loop = None
            self._end()

    def _started(self) -> tuple[Engine, asyncio.AbstractEventLoop]:
        with self._lock:
            if self._engine_loop is None:
                engine, loop = self._make_engine(), asyncio.new_event_loop()
                # Not waited for when the interpreter ends: `finalize` is, and ends it.
                thread = Thread(
                    target=_run, args=(loop,), name=f"keywords {self._expert_id}", daemon=True
                )
                thread.start()
                self._engine_loop = engine, loop
                self._end = weakref.finalize(self, _end, engine, loop, thread)
            return self._engine_loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _end(engine: Engine, loop: asyncio.AbstractEventLoop, thread: Thread) -> None:
    """Not waited for in the loop's own thread, where rubbish may be collected as in any other."""

    async def stop() -> None:
        try:
            await engine.stop(_STOP_S)
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(stop(), loop)
    if current_thread() is not thread:
        thread.join(2 * _STOP_S)


def annotated_kind(annotator: Annotator) -> ScorerKind:
    """`symbolic` with an annotator, to be fitted or restored like any other kind."""
    return ScorerKind(
        lambda table, encoder: SymbolicScorer.fit(table, encoder, annotator),
        lambda artifact, encoder: SymbolicScorer(artifact, encoder, annotator),
    )
