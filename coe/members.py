"""Who can be asked while a pool serves: the router's experts, as an operator has changed them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from coe.engines.base import Engine
from coe.engines.removed import RemovedEngine
from coe.errors import ConfigError, RequestError, RoutingError
from coe.experts import Expert, ExpertPool
from coe.routing import Router, RoutingDecision


class Members:
    """The experts that answer, and their engines. Changed by an operator only.

    Entered by each request for as long as it may have to do with any of their engines.
    """

    def __init__(self, router: Router, engines: Mapping[str, Engine]) -> None:
        self._router = router
        self.pool = router.pool
        """Whoever can be asked for by name. The router knows its own pool alone."""
        self.engines = dict(engines)
        self.removed: set[str] = set()
        """Experts that the router may still choose, and nobody can ask any more."""
        self._n_in_use = 0
        self._left: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._n_in_use += 1

    def __exit__(self, *raised: object) -> None:
        self._n_in_use -= 1
        if self._n_in_use == 0 and self._left is not None:
            self._left.set()

    async def left(self) -> None:
        """Returns once no request uses them, for members that no new request is given."""
        self._left = asyncio.Event()
        if self._n_in_use:
            await self._left.wait()

    def add(self, expert: Expert, engine: Engine) -> None:
        """From now on it answers whoever names it, and if the router knows its id, whoever is
        routed to it.
        """
        if expert.id in self.pool.ids:
            raise ConfigError(f"expert {expert.id!r} exists", key="id")
        self.pool = ExpertPool((*self.pool.experts, expert), self.pool.fallback_id)
        self.engines[expert.id] = engine
        self.removed.discard(expert.id)

    def check_removable(self, expert_id: str) -> None:
        """Raises `UnknownExpert`, and `RequestError` for the last one."""
        self.pool.expert(expert_id)
        if len(self.pool) == 1:
            raise RequestError(f"expert {expert_id!r} is the last one; add another one first")

    def remove(self, expert_id: str) -> None:
        """Nobody is sent to it any more; who is on the way to it is told. Its engine goes on."""
        self.check_removable(expert_id)
        left = tuple(expert for expert in self.pool if expert.id != expert_id)
        fallback_id = self.pool.fallback_id
        self.pool = ExpertPool(left, None if fallback_id == expert_id else fallback_id)
        if expert_id in self._router.pool.ids:
            self.removed.add(expert_id)
            self.engines[expert_id] = RemovedEngine(expert_id)
        else:
            del self.engines[expert_id]

    def present(self, decision: RoutingDecision, router: Router) -> RoutingDecision:
        """The decision among those that are left: the next best where nobody chosen is.

        `router` decided, and names the next best.
        """
        if self.removed.isdisjoint(decision.experts):
            return decision
        left = tuple(id_ for id_ in decision.experts if id_ not in self.removed)
        if left:
            return replace(decision, experts=left)
        other = router.replacement(decision, self.removed)
        if other is None:
            chosen = ", ".join(decision.experts)
            raise RoutingError(
                f"only {chosen} could be chosen, removed since; fit the router again"
            )
        return replace(decision, experts=(other,))
