"""Composition: route, generate, aggregate, behind one streaming method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from coe.aggregation import Aggregator, MajorityVote, WantsScores
from coe.engines.base import Engine, closing_stream, collect
from coe.errors import CoeError, EngineError, UnknownExpert
from coe.routing import Router, RoutingDecision
from coe.types import Completion, Delta, FinishReason, GenerationRequest, Query, Usage


class Composition:
    """A router with running experts: what every door calls."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        aggregator: Aggregator | None = None,
        decides_slowly: bool = False,
    ) -> None:
        """`decides_slowly`: deciding takes a model or a network, so it belongs in a thread."""
        missing = [expert_id for expert_id in router.pool.ids if expert_id not in engines]
        if missing:
            raise UnknownExpert(missing[0], engines)
        self.router = router
        self.engines = engines
        self.decides_slowly = decides_slowly
        self._aggregator = aggregator or MajorityVote()

    def decide(self, request: GenerationRequest, pinned: str | None = None) -> RoutingDecision:
        """The experts that will answer; `pinned` names one and skips the router.

        Without reasons, which `Router.route` gives.
        """
        query = Query.of_messages(request.messages, request.id)
        if pinned is None:
            return self.router.route(query, explain=False)
        expert = self.router.pool.expert(pinned)
        return RoutingDecision(
            query.id, (expert.id,), {}, "pinned", (f"{expert.id} was asked for by name",)
        )

    async def stream(
        self, request: GenerationRequest, decision: RoutingDecision
    ) -> AsyncGenerator[Delta, None]:
        """One answer, piece by piece, under the contract of `Engine.stream`.

        A routed expert's own deltas pass through. Recruited experts answer together and the
        aggregated answer comes whole; its usage is the sum of theirs. Some of them may fail:
        if all do, the best one's error is raised.
        """
        if len(decision.experts) == 1:
            engine = self.engines[decision.experts[0]]
            async with closing_stream(engine.stream(request)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        completions = await self._recruit(request, decision.experts)
        aggregator = self._aggregator
        if isinstance(aggregator, WantsScores):
            aggregator = aggregator.with_scores(decision.scores)
        text = await aggregator.aggregate(request, completions)
        yield Delta(text=text)
        yield Delta(finish_reason=_reason(text, completions), usage=_total(completions))

    async def complete(self, request: GenerationRequest, decision: RoutingDecision) -> Completion:
        """The whole answer. Raises what the stream raises."""
        return await collect(decision.experts[0], self.stream(request, decision))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Stops every engine; one that fails to stop does not keep the others running."""
        await asyncio.gather(
            *(engine.stop(timeout_s) for engine in self.engines.values()), return_exceptions=True
        )

    async def _recruit(
        self, request: GenerationRequest, expert_ids: Sequence[str]
    ) -> list[tuple[str, Completion]]:
        answers = await asyncio.gather(
            *(collect(id_, self.engines[id_].stream(request)) for id_ in expert_ids),
            return_exceptions=True,
        )
        completions: list[tuple[str, Completion]] = []
        failures: list[CoeError] = []
        for expert_id, answer in zip(expert_ids, answers, strict=True):
            if isinstance(answer, Completion):
                completions.append((expert_id, answer))
            elif isinstance(answer, CoeError):
                failures.append(answer)
            else:
                raise answer
        if not completions:
            raise failures[0] if failures else EngineError(expert_ids[0], "gave no answer")
        return completions


def _reason(text: str, completions: Sequence[tuple[str, Completion]]) -> FinishReason:
    """Why the completion that became the answer ended; "stop" for an answer nobody gave."""
    reasons = (c.finish_reason for _, c in completions if c.text == text)
    return next(reasons, "stop")


def _total(completions: Sequence[tuple[str, Completion]]) -> Usage | None:
    """The sum of what the experts used; None if one of them did not count."""
    total = Usage()
    for _, completion in completions:
        if completion.usage is None:
            return None
        total += completion.usage
    return total
