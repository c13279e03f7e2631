"""One answer as it begins, and several answers as one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from coe.aggregation import Aggregator, Writes
from coe.engines.base import Engine, closing_stream, whole_of
from coe.errors import CoeError, UpstreamError
from coe.progress import UNTOLD, Progress
from coe.telemetry import aggregation
from coe.types import Completion, Delta, FinishReason, GenerationRequest, Usage

_LOG = logging.getLogger(__name__)


async def head(expert_id: str, deltas: AsyncIterator[Delta]) -> list[Delta]:
    """The deltas up to the first word, or up to the end of an answer without words."""
    head: list[Delta] = []
    async for delta in deltas:
        head.append(delta)
        if delta.says_something or delta.finish_reason is not None:
            return head
    raise UpstreamError(expert_id, "the answer broke off before its first word")


async def begun(engine: Engine, request: GenerationRequest) -> Begun:
    """Its stream, once the first word is here. What comes in place of that is raised, and the
    stream closed.
    """
    if request.raw is not None and not request.raw.is_streamed:
        deltas = await whole_of(engine, request)
        if not deltas:
            raise UpstreamError(engine.expert_id, "the answer broke off before its first word")
        return Begun(deltas)
    stream = engine.stream(request)
    try:
        return Begun(await head(engine.expert_id, stream), stream)
    except BaseException:
        async with closing_stream(stream):
            raise


class Begun(AsyncIterator[Delta]):
    """A stream whose beginning was listened to already. Closing it closes the stream."""

    __slots__ = ("_heard", "_rest")

    def __init__(self, heard: Sequence[Delta], rest: AsyncIterator[Delta] | None = None) -> None:
        """`rest` None: all of it was."""
        self._heard = deque(heard)
        self._rest = rest

    async def __anext__(self) -> Delta:
        if self._heard:
            return self._heard.popleft()
        if self._rest is None:
            raise StopAsyncIteration
        return await anext(self._rest)

    async def aclose(self) -> None:
        self._heard.clear()
        if self._rest is not None:
            async with closing_stream(self._rest):
                pass


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """One answer of several experts, which has begun."""

    experts: tuple[str, ...]
    """Whose answers took part, best first."""
    deltas: AsyncIterator[Delta]
    shares: Sequence[tuple[str, Usage | None]]
    """What each used; of whoever writes the answer None until it has ended."""


@asynccontextmanager
async def aggregated(
    aggregator: Aggregator,
    request: GenerationRequest,
    completions: Sequence[tuple[str, Completion]],
    failures: Sequence[CoeError] = (),
    writing: tuple[str, AsyncIterator[Delta]] | None = None,
    told: Progress = UNTOLD,
) -> AsyncIterator[Together]:
    """One answer, with the usage of all that it took.

    Whoever is writing it is passed on word by word; if that fails before its first word, the answer
    is made of the completions. Raises the first failure where there are none.
    """
    experts = tuple(expert_id for expert_id, _ in completions)
    shares = [(expert_id, completion.usage) for expert_id, completion in completions]
    with aggregation(experts):
        if writing is not None:
            writer, words = writing
            async with closing_stream(words):
                beginning = await _beginning(writer, words)
                if not isinstance(beginning, CoeError):
                    shares.append((writer, None))
                    if not isinstance(aggregator, Writes):
                        experts = (*experts, writer)
                    deltas = _summed(Begun(beginning, words), shares)
                    yield Together(experts, deltas, shares)
                    return
            told.failed(writer)
            if not completions:
                raise (*failures, beginning)[0]
        decides = aggregator.otherwise if isinstance(aggregator, Writes) else aggregator
        text = await decides.aggregate(request, completions)
    answer = Completion(text, _reason(text, completions), _total(shares))
    yield Together(experts, at_once(answer), shares)


async def _beginning(writer: str, words: AsyncIterator[Delta]) -> list[Delta] | CoeError:
    try:
        return await head(writer, words)
    except CoeError as error:
        _LOG.warning("expert %r was to write the answer and failed: %s", writer, error)
        return error


async def at_once(answer: Completion) -> AsyncIterator[Delta]:
    yield Delta(text=answer.text)
    yield Delta(finish_reason=answer.finish_reason, usage=answer.usage)


async def _summed(
    deltas: AsyncIterator[Delta], shares: list[tuple[str, Usage | None]]
) -> AsyncIterator[Delta]:
    """The last share's own words, at their end with the usage of all."""
    async for delta in deltas:
        if delta.finish_reason is not None:
            writer, _ = shares[-1]
            shares[-1] = (writer, delta.usage)
            yield replace(delta, usage=_total(shares))
        else:
            yield delta


def _reason(text: str, completions: Sequence[tuple[str, Completion]]) -> FinishReason:
    """Why the completion that became the answer ended; "stop" for an answer nobody gave."""
    reasons = (c.finish_reason for _, c in completions if c.text == text)
    return next(reasons, "stop")


def _total(shares: Sequence[tuple[str, Usage | None]]) -> Usage | None:
    """The sum; None if one was not counted."""
    total = Usage()
    for _, usage in shares:
        if usage is None:
            return None
        total += usage
    return total
