"""Composition: route, generate, aggregate, behind one streaming method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from coe.aggregation import Aggregator, MajorityVote, WantsScores
from coe.asking import ask, tell_asked
from coe.counting import CountedEngine, CountedEngines, counted
from coe.engines.base import Engine, closing_stream, collect
from coe.engines.removed import RemovedEngine
from coe.engines.retrying import RetryBudget
from coe.engines.wrapping import passes_bytes
from coe.errors import (
    CoeError,
    ContextOverflow,
    EngineError,
    QueueFull,
    RequestError,
    UnknownExpert,
)
from coe.experts import ExpertPool
from coe.failover import Failover, tell_failure
from coe.hearing import aggregated, begun
from coe.ids import new_id
from coe.members import Members
from coe.progress import UNTOLD, Progress
from coe.routing import Router, RoutingDecision
from coe.sessions import Sessions
from coe.telemetry import Counters, Counts, ExpertCounts
from coe.types import Completion, Delta, GenerationRequest, Query, Usage
from coe.wishes import ANY, UNBOUND, Bounds, Wish, Wishes

Close = Callable[[float], Awaitable[None]]
"""Called with the seconds that there are for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Answering:
    """An answer under way."""

    decision: RoutingDecision
    """Its experts are those whose answers took part, best first."""
    deltas: AsyncIterator[Delta]
    """Under the contract of `Engine.stream`."""
    shares: Sequence[tuple[str, Usage | None]] = ()
    """What each of several experts used, whoever wrote the answer last; grows until the deltas have
    ended. Empty where one answered alone.
    """


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a composition goes about it."""

    failovers: int = 2
    """How many further experts are tried where the routed one fails before its first word."""
    first_word_share: float = 0.5
    """Of the time until a request's deadline, how much an expert has for its first word while
    another one could be asked.
    """
    switch_cost: float = 0.0
    """How much better, in units of score, an expert must be to take a conversation over from the
    one that knows it; 0 does not look who that is.
    """
    decides_slowly: bool = False
    """Deciding takes a model or a network, so it belongs in a thread."""
    budget: RetryBudget | None = None
    """Of failovers, shared with the engines' retries and told of every request; None: no bound."""
    bounds: Bounds = UNBOUND
    """Whom requests may be routed to, whatever they wish."""
    revision: str = ""
    """Of how it routes: another one may answer the same request by another expert."""


class Composition:
    """A router with running experts: what every door calls."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        aggregator: Aggregator | None = None,
        conduct: Conduct = Conduct(),
        close: Close | None = None,
    ) -> None:
        """`close` ends what the engines share, before they are stopped. Engines that are counted
        already are counted on.
        """
        self._counters = engines.counters if isinstance(engines, CountedEngines) else Counters()
        engines = engines.engines if isinstance(engines, CountedEngines) else engines
        missing = [expert_id for expert_id in router.pool.ids if expert_id not in engines]
        if missing:
            raise UnknownExpert(missing[0], engines)
        self.members = Members(router, engines)
        self._sessions = Sessions()
        self._close = close
        self._conduct(router, aggregator or MajorityVote(), conduct)

    def become(
        self,
        router: Router,
        members: Members,
        aggregator: Aggregator,
        conduct: Conduct = Conduct(),
    ) -> Members:
        """Serves from now on with these, and goes on counting. Gives the members until now: what
        is under way ends with their engines, and whoever they alone had is told of as removed.
        """
        before, self.members = self.members, members
        for expert_id in before.engines:
            members.engines.setdefault(expert_id, RemovedEngine(expert_id))
        self._conduct(router, aggregator, conduct)
        return before

    def _conduct(self, router: Router, aggregator: Aggregator, conduct: Conduct) -> None:
        self.router = router
        self.aggregator = aggregator
        self.decides_slowly, self.revision = conduct.decides_slowly, conduct.revision
        self._failover = Failover(conduct.failovers, conduct.first_word_share, conduct.budget)
        self._wishes = Wishes(router, conduct.switch_cost, conduct.bounds)

    def counting(self, engines: Mapping[str, Engine]) -> CountedEngines:
        """Engines whose answers are counted with this composition's."""
        return CountedEngines(engines, self._counters)

    @property
    def engines(self) -> Mapping[str, Engine]:
        return self.members.engines

    @engines.setter
    def engines(self, engines: Mapping[str, Engine]) -> None:
        self.members.engines = dict(engines)

    @property
    def pool(self) -> ExpertPool:
        """Whoever can be asked for by name now."""
        return self.members.pool

    @property
    def counters(self) -> Counts:
        """What was counted until now."""
        return counted(self._counters, self.engines)

    def count_of(self, expert_id: str) -> ExpertCounts:
        """What was counted of one expert until now, also of one removed since."""
        return counted(self._counters, {expert_id: RemovedEngine(expert_id)}).experts[expert_id]

    def passing(self, route: str) -> frozenset[str]:
        """The experts that take a raw request for this route."""
        return frozenset(id_ for id_, e in self.engines.items() if passes_bytes(e, route))

    def decide(
        self, request: GenerationRequest, pinned: str | None = None, wish: Wish = ANY
    ) -> RoutingDecision:
        """The experts that will answer; `pinned` names one and skips the router.

        Without reasons, which `Router.route` gives. A raw request that says all there is goes to
        one expert that passes bytes through. Raises `RequestError` where nobody can take it.
        """
        if pinned is not None:
            query_id = request.id or new_id()
            return RoutingDecision.pinned(self.pool.expert(pinned).id, query_id)
        router = self._router(request, wish)
        decision = self.members.present(router.route(self._query(request), explain=False), router)
        if request.raw is not None and request.raw.is_all:
            return replace(decision, experts=decision.experts[:1])
        return wish.within(decision)

    def explain(self, request: GenerationRequest, wish: Wish = ANY) -> RoutingDecision:
        """The decision with its reasons; nobody is asked."""
        return wish.within(self._router(request, wish).route(self._query(request)))

    def _query(self, request: GenerationRequest) -> Query:
        previous = self._sessions.last_expert(request.session)
        if request.ask is None:
            return Query.of_messages(request.messages, request.id, previous)
        return Query(request.ask, request.id, previous_expert=previous)

    def _router(self, request: GenerationRequest, wish: Wish) -> Router:
        able = self._wishes.able(request.raw, self.passing)
        has_session = self._sessions.last_expert(request.session) is not None
        return self._wishes.router(self._query(request), wish, has_session, able)

    @asynccontextmanager
    async def answering(
        self,
        request: GenerationRequest,
        decision: RoutingDecision,
        wish: Wish = ANY,
        told: Progress = UNTOLD,
    ) -> AsyncIterator[Answering]:
        """One answer, which has begun when this is entered: who gives it is known by then.

        A routed expert's own deltas pass through; if it fails before its first word, or turns the
        request away because too many wait, the next best is asked. Recruited experts answer
        together, and one of their answers comes whole, unless an expert writes it anew or is the
        last of a chain; its usage is the sum of theirs. Some of them may fail: if all do, the best
        one's error is raised. A pinned expert is never replaced.

        `wish` is the one that was decided with; `told` hears what happens until the answer begins.
        The answer to a raw request of one expert that passes bytes through is raw.
        """
        router = self.router if decision.is_pinned else self._router(request, wish)
        is_alone = len(decision.experts) == 1 and not router.is_adaptive
        is_alone = is_alone or (request.raw is not None and request.raw.is_all)
        with self.members, self._counters.all.request() as asked:
            self._failover.on_request()
            if decision.is_pinned or is_alone:
                answer = await self._first_to_speak(request, decision, router, told)
                async with closing_stream(answer.deltas):
                    yield answer
            else:
                together = self._together(replace(request, raw=None), decision, router, told)
                async with together as answer:
                    yield answer
            asked.answered()

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

    async def _first_to_speak(
        self, request: GenerationRequest, decision: RoutingDecision, router: Router, told: Progress
    ) -> Answering:
        """An answer that has begun; closing its deltas ends it."""
        failures: dict[str, CoeError] = {}
        expert_id: str | None = decision.experts[0]
        while expert_id is not None:
            asked = self._understood(request, expert_id)
            if not decision.is_pinned and len(failures) < self._failover.most:
                gone = {*failures, expert_id, *self.members.removed}
                patience_s = self._failover.patience_s(router, decision, gone, request.deadline_s)
                if patience_s is not None:
                    asked = replace(asked, patience_s=patience_s)
            tell_asked(told, self.engines, (expert_id,))
            try:
                deltas = await begun(self._counted(expert_id), asked)
            except (EngineError, ContextOverflow, QueueFull) as error:
                failures[expert_id] = error
                tell_failure(expert_id, error)
                told.failed(expert_id)
            else:
                self._sessions.answered(request.session, expert_id)
                if decision.experts != (expert_id,):
                    decision = replace(decision, experts=(expert_id,))
                return Answering(decision, deltas)
            failed, removed = expert_id, self.members.removed
            expert_id = self._failover.replacement(router, decision, failures, removed)
            self._counters.of(failed).failovers += expert_id is not None
        raise next(iter(failures.values()))

    def _understood(self, request: GenerationRequest, expert_id: str) -> GenerationRequest:
        """The request as this expert can be asked."""
        raw = request.raw
        if raw is None or passes_bytes(self.engines[expert_id], raw.route):
            return request
        if raw.is_all:
            raise RequestError(f"expert {expert_id!r} cannot take this request as it is")
        return replace(request, raw=None)

    @asynccontextmanager
    async def _together(
        self, request: GenerationRequest, decision: RoutingDecision, router: Router, told: Progress
    ) -> AsyncIterator[Answering]:
        aggregator = self.aggregator
        if isinstance(aggregator, WantsScores):
            aggregator = aggregator.with_scores(decision.scores)
        engines = self.counting(self.engines)
        asked = await ask(engines, request, decision, router, aggregator, told)
        heard = (asked.completions, asked.failures, asked.writing)
        async with aggregated(aggregator, request, *heard, told) as answer:
            self._sessions.answered(request.session, answer.experts[0])
            decision = replace(decision, experts=answer.experts)
            yield Answering(decision, answer.deltas, answer.shares)

    def _counted(self, expert_id: str) -> Engine:
        return CountedEngine(self.engines[expert_id], self._counters.of(expert_id))
