"""A benchmark asked stage by stage, each expert loaded once a stage; nothing is asked twice.

1. Experts that are wished answer every question.
2. If there is a router, it chooses for each question; what it chose is kept, so that a run goes
   on as it began.
3. The experts chosen answer, and where several do an expert may write one answer of theirs. What
   they have said already, in 1 or in an earlier run, is not asked again.
4. A question of several turns begins anew at 1, with the answers so far before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coe.composition import Composition
from coe.engines.base import Engine
from coe.eval.asking import LiveSettings, Progress
from coe.eval.benchmarks.question import Benchmark
from coe.eval.live import ask_everyone
from coe.eval.routed import ask_routed, decided_all
from coe.eval.runs.folder import RunFolder
from coe.eval.runs.hearing import HeardEngine, heard_aggregator
from coe.eval.runs.journal import Journal, Spot
from coe.experts import ExpertPool
from coe.routing import RoutingDecision
from coe.types import Message, Query


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose answer it is: an expert's own, or what came out of routing, whose name is empty."""

    expert: str = ""

    def spot(self, query_id: str) -> Spot:
        return Spot("answer", query_id, self.expert) if self.expert else Spot("final", query_id)


def turn_id(query_id: str, turn: int, is_routed: bool = True) -> str:
    """The id of a later turn. What an expert said by itself it goes on from by itself."""
    if turn == 0:
        return query_id
    return f"{query_id}#{turn + 1}" if is_routed else f"{query_id}#{turn + 1} alone"


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Who is asked."""

    engines: Mapping[str, Engine]
    pool: ExpertPool
    composition: Composition | None = None
    """Routes and aggregates, over the same engines; None: nothing is routed."""
    alone: tuple[str, ...] = ()
    """These experts answer every question, whoever is chosen."""


class BenchmarkRun:
    """Answers what a journal lacks."""

    def __init__(
        self, door: Door, benchmark: Benchmark, folder: RunFolder, settings: LiveSettings
    ) -> None:
        """`settings` with the journal of the run, which is open."""
        assert settings.journal is not None, "a run keeps its answers"
        watts = {expert.id: expert.footprint.watts for expert in door.pool}
        self._door = door
        self._engines = {
            id_: HeardEngine(engine, settings.journal, watts.get(id_, 0.0))
            for id_, engine in door.engines.items()
        }
        self._benchmark = benchmark
        self._folder = folder
        self._settings = settings
        self._journal = settings.journal
        if door.composition is not None:
            # From now on nobody of it answers twice, and all are heard out.
            inner = door.composition.aggregator
            door.composition.engines = self._engines
            door.composition.aggregator = heard_aggregator(inner, settings.journal, watts)

    @property
    def n_asked(self) -> int:
        """How often progress is told, all in all."""
        n_turns = sum(1 + len(question.turns) for question in self._benchmark.questions)
        return n_turns * (len(self._door.alone) + (self._door.composition is not None))

    async def answer(self, progress: Progress) -> list[RoutingDecision]:
        """What was decided for each question, in order; all else is in the journal."""
        questions = self._benchmark.questions
        decisions: dict[str, RoutingDecision] = {}
        for turn in range(max(len(question.turns) for question in questions) + 1):
            queries = [question.query for question in questions if len(question.turns) >= turn]
            settings = replace(self._settings, prompt=Told(self._benchmark, self._journal, turn))
            if self._door.alone:
                own = [replace(q, id=turn_id(q.id, turn, is_routed=False)) for q in queries]
                experts = self._door.pool.subset(self._door.alone)
                await ask_everyone(self._engines, experts, own, settings, progress)
            composition = self._door.composition
            if composition is not None:
                decisions = decisions or await self._decided(composition, queries)
                routed = [replace(query, id=turn_id(query.id, turn)) for query in queries]
                # A conversation stays with the experts that it began with.
                kept = [replace(decisions[q.id], query_id=turn_id(q.id, turn)) for q in queries]
                await ask_routed(composition, routed, kept, settings, progress)
        return list(decisions.values())

    async def _decided(
        self, composition: Composition, queries: Sequence[Query]
    ) -> dict[str, RoutingDecision]:
        """By the text alone: whoever asks a served pool does not tell a subject either."""
        decisions = self._folder.load_decisions()
        if decisions is None:
            hidden = [replace(query, category=None) for query in queries]
            decisions = await decided_all(composition, hidden)
            self._folder.save_decisions(decisions)
        return {decision.query_id: decision for decision in decisions}


@dataclass(frozen=True, slots=True)
class Told:
    """What is told in one turn: the question, and all that was said of it before."""

    benchmark: Benchmark
    journal: Journal
    turn: int

    def __call__(self, query: Query, expert_id: str) -> tuple[Message, ...]:
        own_id = query.id.rpartition("#")[0] if self.turn else query.id
        question = self.benchmark.by_id[own_id]
        messages = list(self.benchmark.prompt(question.query))
        subject = Subject(expert_id)
        for turn in range(self.turn):
            spot = subject.spot(turn_id(own_id, turn, is_routed=not expert_id))
            record = self.journal.get(spot)
            said = record.text if record is not None else None
            messages.append(Message("assistant", said or ""))
            messages.append(Message("user", question.turns[turn]))
        return tuple(messages)
