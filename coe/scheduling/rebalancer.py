"""Experts get other devices while they are served, as demand changes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from coe.errors import CoeError
from coe.scheduling.lane import Lane
from coe.scheduling.placement import Home
from coe.scheduling.rehoming import Question, answered_elsewhere
from coe.scheduling.terms import Site

_LOG = logging.getLogger(__name__)
MOST_ASKED = 8_000
"""Requests that are remembered."""
LEAST_ASKED = 32
"""Fewer than this tell nothing of what is in demand."""

Placements = Mapping[str, tuple[tuple[str, ...], ...]]
Think = Callable[[Question], Awaitable[Mapping[str, Home]]]
Pause = Callable[[float], Awaitable[None]]


class Measured(Protocol):
    """A scheduler that knows what experts have been found to cost."""

    @property
    def site(self) -> Site: ...
    @property
    def lanes(self) -> Collection[Lane]: ...


def measured_site(scheduler: Measured) -> Site:
    """The experts there are now, at the costs they were found to have."""
    site = scheduler.site
    lanes = {lane.expert_id: lane for lane in scheduler.lanes}
    tenants = tuple(
        tenant
        if (lane := lanes.get(tenant.expert_id)) is None
        else replace(
            tenant,
            costs=replace(tenant.costs, load_s=lane.load_s.value),
            service_s=lane.service_s.value,
        )
        for tenant in site.tenants
    )
    return Site(site.devices, tenants, site.host_gib)


class Lookout:
    """Remembers who was asked for and who lives where. Pure, but for what it remembers.

    The first answer gives everybody a home; later ones move only whom it pays to move until the
    next look. Whom memory is kept for is left to the scheduler.
    """

    def __init__(
        self, site: Callable[[], Site], every_s: float, homes: Mapping[str, Home] | None = None
    ) -> None:
        """`site`: the experts there are now. `homes`: those that they are known to have."""
        self._site = site
        self._every_s = every_s
        self._asked: deque[tuple[float, str]] = deque(maxlen=MOST_ASKED)
        self._homes = dict(homes or {})

    def asked(self, now: float, expert_id: str) -> None:
        """Somebody asks for an expert. `now` never decreases."""
        self._asked.append((now, expert_id))

    def question(self, now: float) -> Question | None:
        """None: too little is known to think about."""
        if len(self._asked) < LEAST_ASKED:
            return None
        every_s = self._every_s
        return Question(self._site(), self._homes, tuple(self._asked), now, every_s, every_s)

    def answered(self, homes: Mapping[str, Home]) -> Placements:
        """Those who are to move, and where."""
        known = {tenant.expert_id for tenant in self._site().tenants}
        moved = {
            expert_id: (home.devices,)
            for expert_id, home in homes.items()
            if expert_id in known and self._devices(expert_id) != home.devices
        }
        self._homes = {id_: home for id_, home in homes.items() if id_ in known}
        return moved

    def _devices(self, expert_id: str) -> tuple[str, ...] | None:
        home = self._homes.get(expert_id)
        return None if home is None else home.devices


class Rebalancer:
    """Looks every so often, beside a dispatcher, and tells who is to move."""

    def __init__(
        self,
        site: Callable[[], Site],
        tell: Callable[[Placements], None],
        every_s: float,
        think: Think = answered_elsewhere,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._lookout = Lookout(site, every_s)
        self._tell = tell
        self._every_s = every_s
        self._think = think
        self._pause = pause

    def asked(self, now: float, expert_id: str) -> None:
        self._lookout.asked(now, expert_id)

    async def run(self, now: Callable[[], float]) -> None:
        """Looks every so often until it is cancelled; where no answer comes, nobody moves."""
        while True:
            await self._pause(self._every_s)
            try:
                async with asyncio.timeout(self._every_s):
                    await self._look(now())
            except TimeoutError:
                _LOG.warning("no new placement within %g s; raise rebalance_s", self._every_s)
            except CoeError as error:
                _LOG.warning("experts stay where they are: %s", error)

    async def _look(self, now: float) -> None:
        question = self._lookout.question(now)
        if question is None:
            return
        moved = self._lookout.answered(await self._think(question))
        if moved:
            places = ", ".join(f"{id_} to {'+'.join(at)}" for id_, (at,) in moved.items())
            _LOG.info("from their next load on: %s", places)
            self._tell(moved)
