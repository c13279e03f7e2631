"""Experts asked together or in turn: completions and failures come out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from coe.aggregation import Aggregator, AsksInTurn, Read, StopsEarly, Writes, stated_answer
from coe.engines.base import Engine, EngineState, collect
from coe.engines.wrapping import layers
from coe.errors import CoeError
from coe.progress import UNTOLD, Progress
from coe.routing import Heard, Router, RoutingDecision
from coe.types import Completion, Delta, GenerationRequest

_LOG = logging.getLogger(__name__)

NextExpert = Callable[[Sequence[Heard]], str | None]
"""What was heard so far → whom to ask next, None to stop."""


@runtime_checkable
class Queued(Protocol):
    """An engine whose expert has to be loaded first, and has a line then."""

    def n_waiting(self) -> int: ...


@dataclass(slots=True)
class Asked:
    """What came of asking experts, in the order asked."""

    completions: list[tuple[str, Completion]] = field(default_factory=list)
    failures: list[CoeError] = field(default_factory=list)
    writing: tuple[str, AsyncIterator[Delta]] | None = None
    """Who gives the answer itself, and its words, which nobody has listened to yet. None: one of
    the completions is the answer.
    """

    def failed(self, expert_id: str, error: CoeError) -> None:
        """Keeps a failure and logs it: the others' answers hide it from the client."""
        _LOG.info("expert %r was asked with others and failed: %s", expert_id, error)
        self.failures.append(error)


async def ask(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    decision: RoutingDecision,
    router: Router,
    aggregator: Aggregator,
    told: Progress = UNTOLD,
) -> Asked:
    """Those decided on, together or in turn, as the router and the aggregator want it.

    Raises the first one's error where all have failed.
    """
    chain = aggregator if isinstance(aggregator, AsksInTurn) else None
    if chain is not None and not router.is_adaptive:
        return await _ask_chain(engines, request, decision.experts, chain, told)
    if router.is_adaptive:

        def next_expert(heard: Sequence[Heard]) -> str | None:
            return router.next_expert(decision, heard)

        asked = await ask_in_turn(engines, request, next_expert, stated_answer, chain, told)
    else:
        stops = aggregator if isinstance(aggregator, StopsEarly) else None
        asked = await ask_together(engines, request, decision.experts, stops, told)
    if not asked.completions:
        raise asked.failures[0]
    if isinstance(aggregator, Writes) and len(asked.completions) > 1:
        tell_writing(told, engines, aggregator.writer)
        asked.writing = (aggregator.writer, aggregator.write(request, asked.completions))
    return asked


async def ask_together(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    expert_ids: Sequence[str],
    stops: StopsEarly | None = None,
    told: Progress = UNTOLD,
) -> Asked:
    """All at once. Those still writing are cancelled once `stops` says that nothing can change."""
    tell_asked(told, engines, expert_ids)
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
                _tell_outcome(told, tasks[task], answers, len(expert_ids))
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
    told: Progress = UNTOLD,
) -> Asked:
    """One after the other, until `next_expert` stops. A failure is heard as no answer.

    With a `chain` each is asked what the chain makes of the request and the answers so far.
    """
    asked = Asked()
    heard: list[Heard] = []
    while (expert_id := next_expert(heard)) is not None:
        asks = request if chain is None else chain.next_request(request, asked.completions)
        tell_asked(told, engines, [expert_id])
        try:
            completion = await collect(expert_id, engines[expert_id].stream(asks))
        except CoeError as error:
            asked.failed(expert_id, error)
            told.failed(expert_id)
            heard.append(Heard(expert_id, None))
        else:
            asked.completions.append((expert_id, completion))
            told.answered(expert_id, len(asked.completions))
            heard.append(Heard(expert_id, read(completion.text)))
    return asked


async def _ask_chain(
    engines: Mapping[str, Engine],
    request: GenerationRequest,
    expert_ids: Sequence[str],
    chain: AsksInTurn,
    told: Progress,
) -> Asked:
    """All but the last one, whose words are the answer itself."""
    *drafting, last = expert_ids

    def next_expert(heard: Sequence[Heard]) -> str | None:
        return next(iter(drafting[len(heard) :]), None)

    asked = await ask_in_turn(engines, request, next_expert, stated_answer, chain, told)
    asks = chain.next_request(request, asked.completions)
    tell_writing(told, engines, last)
    asked.writing = (last, engines[last].stream(asks))
    return asked


def tell_asked(told: Progress, engines: Mapping[str, Engine], expert_ids: Sequence[str]) -> None:
    """Also who of them has to be loaded first."""
    if told is UNTOLD:
        return
    for expert_id in expert_ids:
        _tell_waiting(told, engines, expert_id)
    told.asked(expert_ids)


def tell_writing(told: Progress, engines: Mapping[str, Engine], expert_id: str) -> None:
    if told is not UNTOLD:
        _tell_waiting(told, engines, expert_id)
        told.writing(expert_id)


def _tell_waiting(told: Progress, engines: Mapping[str, Engine], expert_id: str) -> None:
    engine = engines[expert_id]
    queued = next((layer for layer in layers(engine) if isinstance(layer, Queued)), None)
    if queued is not None and engine.state is not EngineState.READY:
        told.waiting(expert_id, queued.n_waiting())


def _tell_outcome(
    told: Progress, expert_id: str, answers: Mapping[str, Completion | CoeError], n_asked: int
) -> None:
    if isinstance(answers[expert_id], Completion):
        n_answered = sum(isinstance(answer, Completion) for answer in answers.values())
        told.answered(expert_id, n_answered, n_asked)
    else:
        told.failed(expert_id)


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
