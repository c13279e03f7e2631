"""Counts what experts are asked, from around their engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from coe.engines.base import Engine, closing_stream, whole_of
from coe.engines.breaking import BreakingEngine
from coe.engines.retrying import RetryingEngine
from coe.engines.wrapping import WrappingEngine, layers
from coe.telemetry import Counters, Counts, ExpertCounts, Tally, expert_call
from coe.types import Delta, GenerationRequest


class CountedEngines(Mapping[str, Engine]):
    """Engines whose every answer is counted, and that are else as they were."""

    def __init__(self, engines: Mapping[str, Engine], counters: Counters | None = None) -> None:
        """`counters` None: new ones."""
        self.engines = engines
        self.counters = counters or Counters()

    def __getitem__(self, expert_id: str) -> Engine:
        return CountedEngine(self.engines[expert_id], self.counters.of(expert_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self.engines)

    def __len__(self) -> int:
        return len(self.engines)


class CountedEngine(WrappingEngine):
    """One of them."""

    def __init__(self, inner: Engine, tally: Tally) -> None:
        super().__init__(inner)
        self._tally = tally

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        with (
            self._tally.request() as asked,
            expert_call(self.expert_id, request) as call,
        ):
            async with closing_stream(self.inner.stream(call.request)) as deltas:
                async for delta in deltas:
                    if delta.finish_reason is not None:
                        asked.answered(delta.usage)
                    call.hears(delta)
                    yield delta
                    call.resumes()

    async def whole(self, request: GenerationRequest) -> Sequence[Delta]:
        with (
            self._tally.request() as asked,
            expert_call(self.expert_id, request) as call,
        ):
            deltas = await whole_of(self.inner, call.request)
            for delta in deltas:
                if delta.finish_reason is not None:
                    asked.answered(delta.usage)
                call.hears(delta)
                call.resumes()
            return deltas


def counted(counters: Counters, engines: Mapping[str, Engine]) -> Counts:
    """The numbers as they are now, with what the engines' own wrappers count."""
    everything = counters.all
    return Counts(
        everything.requests,
        everything.answers,
        everything.abandoned,
        dict(everything.failures),
        {id_: _expert(counters.of(id_), engine) for id_, engine in engines.items()},
    )


def _expert(tally: Tally, engine: Engine) -> ExpertCounts:
    wrappers = list(layers(engine))
    breaker = next((layer for layer in wrappers if isinstance(layer, BreakingEngine)), None)
    return ExpertCounts(
        tally.requests,
        tally.answers,
        tally.abandoned,
        dict(tally.failures),
        tally.failovers,
        sum(layer.n_retries for layer in wrappers if isinstance(layer, RetryingEngine)),
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.uncounted_answers,
        None if breaker is None else breaker.breaker_state.value,
        0 if breaker is None else breaker.n_openings,
    )
