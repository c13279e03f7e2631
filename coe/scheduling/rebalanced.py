"""The scheduler with its rebalancing inside it, thinking in no time: for the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from coe.scheduling.effects import Effects
from coe.scheduling.placement import Home
from coe.scheduling.rebalancer import Lookout, measured_site
from coe.scheduling.scheduler import SwapScheduler
from coe.scheduling.terms import Site, SwapRules, Ticket


class Rebalanced(SwapScheduler):
    """Looks at the first arrival after every so many seconds; infinity never looks."""

    def __init__(
        self,
        site: Site,
        effects: Effects,
        rules: SwapRules | None,
        every_s: float,
        homes: Mapping[str, Home] | None = None,
    ) -> None:
        """`homes`: where experts live at the start; None: anywhere."""
        super().__init__(site, effects, rules)
        self._homes = homes or {}
        self._every_s = every_s
        self._look_at_s = every_s
        self._lookout = Lookout(partial(measured_site, self), every_s, homes)
        self.n_moved = 0
        """Homes given, those of the first look included."""

    def on_start(self, now: float) -> None:
        super().on_start(now)
        self.on_placements(now, {id_: (home.devices,) for id_, home in self._homes.items()})

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        self._lookout.asked(now, ticket.expert_id)
        if now >= self._look_at_s:
            self._look_at_s = now + self._every_s
            self._look(now)
        super().on_arrival(now, ticket)

    def _look(self, now: float) -> None:
        question = self._lookout.question(now)
        moved = {} if question is None else self._lookout.answered(question.answer())
        if moved:
            self.n_moved += len(moved)
            self.on_placements(now, moved)
