"""Hosted experts under a plan: what a batch tells them beforehand, and how far they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.plan import Plan
from coe.scheduling.planned import Expected, PlannedScheduler
from coe.scheduling.terms import Residency


@dataclass(frozen=True, slots=True)
class Standing:
    """How far hosted experts are, at one moment."""

    n_swaps: int = 0
    """Loads and wakes that have begun."""
    n_swaps_planned: int = 0
    """Those, and the ones that the plan has still to begin."""
    residents: tuple[str, ...] = ()


class PlannedPool:
    """What whoever runs a batch has to do with the scheduler, on the event loop of its dispatcher.

    Experts that are not hosted need no plan: what is told of them is passed over.
    """

    def __init__(
        self, dispatcher: Dispatcher, scheduler: PlannedScheduler, writer: str | None = None
    ) -> None:
        """`scheduler` is the dispatcher's; `writer` the expert that reads what others answer."""
        self.writer = writer
        self._dispatcher = dispatcher
        self._scheduler = scheduler

    def hosts(self, expert_ids: Iterable[str]) -> bool:
        """Whether all of these follow the plan."""
        return all(expert_id in self._dispatcher.engines for expert_id in expert_ids)

    def expect(self, stages: Sequence[Expected]) -> Plan | None:
        """Follows the plan of what is asked of each expert, stage after stage; None: of nobody.

        Call it before the first of them is asked. What was expected before is not any more.
        """
        hosted = self._dispatcher.engines
        known = [{e: n for e, n in stage.items() if e in hosted} for stage in stages]
        made: list[Plan] = []
        if any(known):
            self._dispatcher.tell(lambda now: made.append(self._scheduler.expect(now, known)))
        return made[0] if made else None

    def forget(self) -> None:
        """Nothing more is expected; whoever asks is served as if there were no plan."""
        self._dispatcher.tell(self._scheduler.forget)

    @property
    def standing(self) -> Standing:
        counts = self._scheduler.counts
        n_swaps = counts.loads + counts.wakes
        awake = (lane.expert_id for lane in self._scheduler.lanes if _is_here(lane.residency))
        return Standing(n_swaps, n_swaps + self._scheduler.n_loads_ahead, tuple(awake))


def foreseen(
    recruited: Iterable[Sequence[str]], writer: str | None = None, in_turn: bool = False
) -> list[Counter[str]]:
    """How many requests each expert gets, stage by stage, given the experts of each query.

    `writer`: the expert that reads what several have answered. `in_turn`: those of a query are
    asked one after the other.
    """
    stages: list[Counter[str]] = [Counter()]
    written: Counter[str] = Counter()
    for experts in recruited:
        for rank, expert_id in enumerate(experts):
            stage = rank if in_turn else 0
            if stage == len(stages):
                stages.append(Counter())
            stages[stage][expert_id] += 1
        if writer is not None and len(experts) > 1:
            written[writer] += 1
    return [*stages, written] if written else stages


def _is_here(residency: Residency) -> bool:
    return residency in (Residency.LOADING, Residency.AWAKE)
