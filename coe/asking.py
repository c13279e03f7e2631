"""Experts asked together or in turn: completions and failures come out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from coe.aggregation import Aggregator, AsksInTurn, Read, StopsEarly, stated_answer
from coe.engines.base import Engine, collect
from coe.errors import CoeError
from coe.routing import Heard, Router, RoutingDecision
from coe.types import Completion, GenerationRequest

_LOG = logging.getLogger(__name__)

NextExpert = Callable[[Sequence[Heard]], str | None]
"""What was heard so far → whom to ask next, None to stop."""


@dataclass(slots=True)
class Asked:
    """What came of asking experts, in the order asked."""

    completions: list[tuple[str, Completion]] = field(default_factory=list)
    failures: list[CoeError] = field(default_factory=list)

    def failed(self, expert_id: str, error: CoeError) -> None:
        """Keeps a failure and logs it: the others' answers hide it from the client."""
        _LOG.warning("expert %r was asked with others and failed: %s", expert_id, error)
        self.failures.append(error)


async def ask(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    decision: RoutingDecision,
    router: Router,
    aggregator: Aggregator,
) -> Asked:
    """Those decided on, together or in turn, as the router and the aggregator want it."""
    chain = aggregator if isinstance(aggregator, AsksInTurn) else None
    if chain is None and not router.is_adaptive:
        stops = aggregator if isinstance(aggregator, StopsEarly) else None
        return await ask_together(engines, request, decision.experts, stops)

    def next_expert(heard: Sequence[Heard]) -> str | None:
        return router.next_expert(decision, heard)

    return await ask_in_turn(engines, request, next_expert, stated_answer, chain)


async def ask_together(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    expert_ids: Sequence[str],
    stops: StopsEarly | None = None,
) -> Asked:
    """All at once. Those still writing are cancelled once `stops` says that nothing can change."""
    tasks = {
        asyncio.create_task(collect(id_, engines[id_].stream(request))): id_ for id_ in expert_ids
    }
    answers: dict[str, Completion | CoeError] = {}
    try:
        pending = set(tasks)
        while pending and not (stops and _is_settled(stops, expert_ids, answers)):
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                answers[tasks[task]] = _outcome(task)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    asked = Asked()
    for expert_id in expert_ids:
        answer = answers.get(expert_id)
        if isinstance(answer, Completion):
            asked.completions.append((expert_id, answer))
        elif answer is not None:
            asked.failed(expert_id, answer)
    return asked


async def ask_in_turn(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    next_expert: NextExpert,
    read: Read,
    chain: AsksInTurn | None = None,
) -> Asked:
    """One after the other, until `next_expert` stops. A failure is heard as no answer.

    With a `chain` each is asked what the chain makes of the request and the answers so far.
    """
    asked = Asked()
    heard: list[Heard] = []
    while (expert_id := next_expert(heard)) is not None:
        asks = request if chain is None else chain.next_request(request, asked.completions)
        try:
            completion = await collect(expert_id, engines[expert_id].stream(asks))
        except CoeError as error:
            asked.failed(expert_id, error)
            heard.append(Heard(expert_id, None))
        else:
            asked.completions.append((expert_id, completion))
            heard.append(Heard(expert_id, read(completion.text)))
    return asked


def _outcome(task: asyncio.Task[Completion]) -> Completion | CoeError:
    """Raises what is no failure of an expert but a defect of ours."""
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, CoeError):
        return error
    raise error


def _is_settled(
    stops: StopsEarly, expert_ids: Sequence[str], answers: Mapping[str, Completion | CoeError]
) -> bool:
    """Experts that failed have no rank: the vote is among the others."""
    taking_part = [id_ for id_ in expert_ids if not isinstance(answers.get(id_), CoeError)]
    done = {
        rank: answer
        for rank, id_ in enumerate(taking_part)
        if isinstance(answer := answers.get(id_), Completion)
    }
    return stops.is_settled(done, len(taking_part))
