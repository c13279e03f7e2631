"""Composition: route, generate, aggregate, behind one streaming method."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from coe.aggregation import (
    Aggregator,
    AsksInTurn,
    MajorityVote,
    StopsEarly,
    WantsScores,
    Writes,
    stated_answer,
)
from coe.asking import Asked, ask_in_turn, ask_together
from coe.engines.base import Engine, closing_stream, collect
from coe.errors import CoeError, ContextOverflow, EngineError, UnknownExpert, UpstreamError
from coe.routing import Heard, Router, RoutingDecision
from coe.sessions import Sessions
from coe.types import Completion, Delta, FinishReason, GenerationRequest, Query, Usage

_LOG = logging.getLogger(__name__)

Close = Callable[[float], Awaitable[None]]
"""Called with the seconds that there are for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Answering:
    """An answer under way."""

    decision: RoutingDecision
    """Its experts are those whose answers took part, best first."""
    deltas: AsyncIterator[Delta]
    """Under the contract of `Engine.stream`."""


class Composition:
    """A router with running experts: what every door calls."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        aggregator: Aggregator | None = None,
        failovers: int = 2,
        decides_slowly: bool = False,
        close: Close | None = None,
    ) -> None:
        """`failovers`: how many further experts are tried where the routed one fails before its
        first word. `decides_slowly`: deciding takes a model or a network, so it belongs in a
        thread. `close` ends what the engines share, before they are stopped.
        """
        missing = [expert_id for expert_id in router.pool.ids if expert_id not in engines]
        if missing:
            raise UnknownExpert(missing[0], engines)
        self.router = router
        self.engines = engines
        self.decides_slowly = decides_slowly
        self.aggregator = aggregator or MajorityVote()
        self._failovers = failovers
        self._sessions = Sessions()
        self._close = close

    def decide(self, request: GenerationRequest, pinned: str | None = None) -> RoutingDecision:
        """The experts that will answer; `pinned` names one and skips the router.

        Without reasons, which `Router.route` gives.
        """
        previous = self._sessions.last_expert(request.session)
        query = Query.of_messages(request.messages, request.id, previous)
        if pinned is None:
            return self.router.route(query, explain=False)
        return RoutingDecision.pinned(self.router.pool.expert(pinned).id, query.id)

    @asynccontextmanager
    async def answering(
        self, request: GenerationRequest, decision: RoutingDecision
    ) -> AsyncIterator[Answering]:
        """One answer, which has begun when this is entered: who gives it is known by then.

        A routed expert's own deltas pass through; if it fails before its first word, the next
        best is asked. Recruited experts answer together and the aggregated answer comes whole;
        its usage is the sum of theirs. Some of them may fail: if all do, the best one's error is
        raised. A pinned expert is never replaced.
        """
        is_alone = len(decision.experts) == 1 and not self.router.is_adaptive
        if decision.is_pinned or is_alone:
            async with self._first_to_speak(request, decision) as answer:
                yield answer
        else:
            yield await self._together(request, decision)

    async def stream(
        self, request: GenerationRequest, decision: RoutingDecision
    ) -> AsyncGenerator[Delta, None]:
        """The answer of `answering`, piece by piece."""
        async with self.answering(request, decision) as answer:
            async for delta in answer.deltas:
                yield delta

    async def complete(self, request: GenerationRequest, decision: RoutingDecision) -> Completion:
        """The whole answer. Raises what the stream raises."""
        return await collect(decision.experts[0], self.stream(request, decision))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Stops every engine; one that fails to stop does not keep the others running."""
        try:
            if self._close is not None:
                await self._close(timeout_s)
        finally:
            stops = (engine.stop(timeout_s) for engine in self.engines.values())
            await asyncio.gather(*stops, return_exceptions=True)

    @asynccontextmanager
    async def _first_to_speak(
        self, request: GenerationRequest, decision: RoutingDecision
    ) -> AsyncIterator[Answering]:
        failures: dict[str, CoeError] = {}
        expert_id: str | None = decision.experts[0]
        while expert_id is not None:
            async with closing_stream(self.engines[expert_id].stream(request)) as deltas:
                try:
                    head = await _head(expert_id, deltas)
                except (EngineError, ContextOverflow) as error:
                    failures[expert_id] = error
                    _LOG.warning("expert %r was routed to and failed: %s", expert_id, error)
                else:
                    self._sessions.answered(request.session, expert_id)
                    yield Answering(replace(decision, experts=(expert_id,)), _joined(head, deltas))
                    return
            expert_id = self._replacement(decision, failures)
        raise next(iter(failures.values()))

    def _replacement(
        self, decision: RoutingDecision, failures: Mapping[str, CoeError]
    ) -> str | None:
        """The policy's choice without those that failed, and without contexts as short as one that
        overflowed; None once so many have failed as may.
        """
        if len(failures) > self._failovers:
            return None
        too_short = [e.context_tokens for e in failures.values() if isinstance(e, ContextOverflow)]
        most = max(too_short, default=0)
        short = {expert.id for expert in self.router.pool if expert.context_tokens <= most}
        return self.router.replacement(decision, {*failures, *short})

    async def _together(self, request: GenerationRequest, decision: RoutingDecision) -> Answering:
        aggregator = self.aggregator
        if isinstance(aggregator, WantsScores):
            aggregator = aggregator.with_scores(decision.scores)
        asked = await self._ask(request, decision, aggregator)
        if not asked.completions:
            raise asked.failures[0]
        experts = tuple(expert_id for expert_id, _ in asked.completions)
        self._sessions.answered(request.session, experts[0])
        answer = await _aggregated(aggregator, request, asked.completions)
        return Answering(replace(decision, experts=experts), _whole(answer))

    async def _ask(
        self, request: GenerationRequest, decision: RoutingDecision, aggregator: Aggregator
    ) -> Asked:
        chain = aggregator if isinstance(aggregator, AsksInTurn) else None
        if chain is None and not self.router.is_adaptive:
            stops = aggregator if isinstance(aggregator, StopsEarly) else None
            return await ask_together(self.engines, request, decision.experts, stops)

        def next_expert(heard: Sequence[Heard]) -> str | None:
            return self.router.next_expert(decision, heard)

        return await ask_in_turn(self.engines, request, next_expert, stated_answer, chain)


async def _head(expert_id: str, deltas: AsyncIterator[Delta]) -> list[Delta]:
    """The deltas up to the first word, or up to the end of an answer without words."""
    head: list[Delta] = []
    async for delta in deltas:
        head.append(delta)
        if delta.text or delta.finish_reason is not None:
            return head
    raise UpstreamError(expert_id, "the answer broke off before its first word")


async def _joined(head: Sequence[Delta], rest: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    for delta in head:
        yield delta
    async for delta in rest:
        yield delta


async def _aggregated(
    aggregator: Aggregator,
    request: GenerationRequest,
    completions: Sequence[tuple[str, Completion]],
) -> Completion:
    """One answer, with the usage of all that it took."""
    asked = [completion.usage for _, completion in completions]
    if isinstance(aggregator, Writes):
        written = await aggregator.write(request, completions)
        return replace(written, usage=_total([*asked, written.usage]))
    text = await aggregator.aggregate(request, completions)
    return Completion(text, _reason(text, completions), _total(asked))


async def _whole(answer: Completion) -> AsyncIterator[Delta]:
    yield Delta(text=answer.text)
    yield Delta(finish_reason=answer.finish_reason, usage=answer.usage)


def _reason(text: str, completions: Sequence[tuple[str, Completion]]) -> FinishReason:
    """Why the completion that became the answer ended; "stop" for an answer nobody gave."""
    reasons = (c.finish_reason for _, c in completions if c.text == text)
    return next(reasons, "stop")


def _total(usages: Sequence[Usage | None]) -> Usage | None:
    """The sum; None if one was not counted."""
    total = Usage()
    for usage in usages:
        if usage is None:
            return None
        total += usage
    return total
