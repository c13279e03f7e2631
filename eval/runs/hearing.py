"""Experts and aggregators whose answers are kept, and given again where there are any already."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from coe.aggregation import Aggregator, AsksInTurn, WantsScores, Writes
from coe.engines.base import Engine, closing_stream
from coe.engines.wrapping import WrappingEngine
from coe.errors import CoeError, EngineError, ShuttingDown
from coe.eval.runs.journal import Journal, Record, Spot, Stage
from coe.types import Completion, Delta, GenerationRequest, Timing

Asks = Callable[[GenerationRequest], AsyncIterator[Delta]]


class Recalled(EngineError):
    """A failure of an earlier run, in its words."""

    def __init__(self, expert_id: str, message: str) -> None:
        super().__init__(expert_id, message)
        self.args = (message,)


@dataclass(slots=True)
class Meter:
    """Joules that an expert takes while it writes, shared equally by what it writes at a time.

    Counted is from the first word to the last: neither loading nor what an expert reads.
    """

    watts: float
    """0: not known."""
    clock: Callable[[], float] = time.perf_counter
    _n_writing: int = field(default=0, init=False)
    _share_j: float = field(default=0.0, init=False)
    """What an answer would have taken that was written all the time."""
    _at_s: float = field(default=0.0, init=False)

    @contextmanager
    def writing(self) -> Iterator[Callable[[], float | None]]:
        """Gives how much this answer has taken until now; None if that is not known."""
        began_j = self._advanced()
        self._n_writing += 1
        try:
            yield lambda: self._advanced() - began_j if self.watts else None
        finally:
            self._advanced()
            self._n_writing -= 1

    def _advanced(self) -> float:
        now_s = self.clock()
        if self._n_writing:
            self._share_j += self.watts * (now_s - self._at_s) / self._n_writing
        self._at_s = now_s
        return self._share_j


class Tape:
    """What one expert says in one stage: from the journal if it is there, else kept in it.

    A failure is kept as well. That everything shuts down is none.
    """

    def __init__(self, journal: Journal, stage: Stage, expert_id: str, watts: float = 0.0) -> None:
        self._journal = journal
        self._stage = stage
        self._expert_id = expert_id
        self._meter = Meter(watts)

    async def stream(self, request: GenerationRequest, ask: Asks) -> AsyncIterator[Delta]:
        """The answer to the request of this id, which is asked at most once."""
        spot = Spot(self._stage, request.id, self._expert_id)
        known = self._journal.get(spot)
        if known is not None:
            for delta in _played(known):
                yield delta
            return
        try:
            async with closing_stream(self._kept(spot, ask(request))) as deltas:
                async for delta in deltas:
                    yield delta
        except ShuttingDown:
            raise
        except CoeError as error:
            self._journal.add(Record(spot, error=str(error)))
            raise

    async def _kept(self, spot: Spot, deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
        began_s = first_s = time.perf_counter()
        taken_j: Callable[[], float | None] | None = None
        texts: list[str] = []
        with ExitStack() as while_writing:
            async with closing_stream(deltas) as heard:
                async for delta in heard:
                    if taken_j is None:
                        first_s = time.perf_counter()
                        taken_j = while_writing.enter_context(self._meter.writing())
                    texts.append(delta.text)
                    if delta.finish_reason is not None:
                        timing = Timing(first_s - began_s, time.perf_counter() - began_s)
                        text, reason = "".join(texts), delta.finish_reason
                        whole = Completion(text, reason, delta.usage, timing)
                        self._journal.add(Record.of(spot, whole, taken_j()))
                    yield delta


class HeardEngine(WrappingEngine):
    """An expert that does not answer twice."""

    def __init__(self, inner: Engine, journal: Journal, watts: float = 0.0) -> None:
        super().__init__(inner)
        self._tape = Tape(journal, "answer", inner.expert_id, watts)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with closing_stream(self._tape.stream(request, self.inner.stream)) as deltas:
            async for delta in deltas:
                yield delta


class Patient:
    """Hears all experts out, so that what comes out does not depend on who was quickest."""

    def __init__(self, inner: Aggregator) -> None:
        self.inner = inner
        self.name = inner.name

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        return await self.inner.aggregate(request, completions)


class _Weighs(Aggregator, WantsScores, Protocol):
    """Both at once."""


class _Reads(Aggregator, Writes, Protocol):
    """Both at once."""


class PatientWeighing(Patient):
    """The same of one that weighs experts."""

    def __init__(self, inner: _Weighs) -> None:
        super().__init__(inner)
        self._weighing = inner

    def with_scores(self, scores: Mapping[str, float]) -> Aggregator:
        return Patient(self._weighing.with_scores(scores))


class HeardWriting(Patient):
    """An aggregator whose expert does not write the same answer twice."""

    def __init__(self, inner: _Reads, journal: Journal, watts: float = 0.0) -> None:
        super().__init__(inner)
        self._writes = inner
        self._tape = Tape(journal, "write", inner.writer, watts)

    @property
    def writer(self) -> str:
        return self._writes.writer

    @property
    def otherwise(self) -> Aggregator:
        return self._writes.otherwise

    def write(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> AsyncIterator[Delta]:
        return self._tape.stream(request, lambda asked: self._writes.write(asked, completions))


def heard_aggregator(inner: Aggregator, journal: Journal, watts: Mapping[str, float]) -> Aggregator:
    """The same aggregator for a run that is to be gone on with. `watts`: by expert."""
    if isinstance(inner, AsksInTurn):
        return inner
    if isinstance(inner, Writes):
        return HeardWriting(inner, journal, watts.get(inner.writer, 0.0))
    if isinstance(inner, WantsScores):
        return PatientWeighing(inner)
    return Patient(inner)


def _played(record: Record) -> list[Delta]:
    completion = record.completion
    if completion is None:
        raise Recalled(record.spot.expert, record.error or "no answer was kept")
    end = Delta(finish_reason=completion.finish_reason, usage=completion.usage)
    return [Delta(text=completion.text), end]
