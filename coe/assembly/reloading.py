"""Makes a pool that serves what its file says now. What did not change there goes on as it was:
the same engine, the same residency, the same counts.

What is under way ends with the experts that it began with. A file that is wrong changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, fields, replace

from coe.aggregation import Aggregator
from coe.assembly.guards import Guards
from coe.assembly.hosting import is_hosted, site_of, tenant_of
from coe.assembly.served import Served
from coe.assembly.serving import Prepared, aggregator_for, conduct_for, prepare
from coe.config import Config, load_config
from coe.engines.base import Engine
from coe.engines.removed import RemovedEngine
from coe.engines.wrapping import layers
from coe.errors import CoeError, ConfigError
from coe.experts import Expert, VllmLoraSpec
from coe.members import Members
from coe.scheduling.hosted import HostedEngine

_LOG = logging.getLogger(__name__)
_STOP_S = 10.0
_LIVE = frozenset({"pool", "router", "encoder", "reliability"})
"""Fields of a configuration that may change while it is served."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did, as ids."""

    router: str
    kept: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    """Their engines are new ones. An expert hosted here has left first: until then others answer
    in its place."""
    removed: tuple[str, ...]


class Reloader:
    """Reads the file of one pool again. Reloads follow one another."""

    def __init__(
        self,
        served: Served,
        reserved: Collection[str] = ("coe",),
        part: Callable[[Config], Config] = lambda config: config,
    ) -> None:
        """`reserved`: names that no expert may have. `part`: what of a file this process serves;
        raises `ConfigError` for one that it cannot.
        """
        self._served = served
        self._reserved = frozenset(reserved)
        self._part = part
        self._lock = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def reload(self) -> Reloaded:
        """Returns once new requests are served as the file says now.

        Raises `ConfigError` or `PoolMismatch` for a file or an artifact that cannot be served, or
        that changes what is read at the start only; nothing has changed then.
        """
        async with self._lock:
            served = self._served
            prepared = await asyncio.to_thread(self._read)
            change = _Change.between(served, prepared.config)
            guards = served.guards.of(prepared.config)
            engines = self._engines(change, prepared.config, guards)
            members = Members(prepared.router, engines)
            counted = served.composition.counting(members.engines)
            vote = prepared.vote
            aggregator = aggregator_for(prepared.config.router.aggregator, counted, vote)
            self._turn(prepared, guards, members, aggregator, change)
            return Reloaded(
                prepared.router.name, change.kept, change.added, change.changed, change.removed
            )

    async def settle(self) -> None:
        """Returns once nothing is left of earlier reloads."""
        await asyncio.gather(*self._leaving)

    def _read(self) -> Prepared:
        before = self._served.config
        config = self._part(load_config(before.file))
        for name in self._reserved.intersection(config.pool.ids):
            raise ConfigError(
                f"{name!r} is the name of the model that routes; give the expert another id",
                file=str(config.file),
                key="experts",
            )
        for name in (f.name for f in fields(Config) if f.name not in _LIVE):
            if getattr(config, name) != getattr(before, name):
                raise _fixed(config, name)
        if config.router.feedback != before.router.feedback:
            raise _fixed(config, "router.feedback")
        site_of(config)  # complains of experts that could never be loaded
        return prepare(config)

    def _engines(self, change: _Change, config: Config, guards: Guards) -> dict[str, Engine]:
        """Of every expert of the new pool. Those that others host are made anew where they changed;
        those hosted here come in when there is room, and are told of as removed until then.
        """
        served, engines = self._served, dict[str, Engine]()
        for expert in config.pool:
            if expert.id in change.kept:
                engines[expert.id] = served.composition.engines[expert.id]
            elif is_hosted(expert) or expert.id in served.dispatcher.engines:
                engines[expert.id] = RemovedEngine(expert.id)
            else:
                engine = served.engine(expert, config)
                engines[expert.id] = guards.around(expert, engine, is_hosted=False)
        return engines

    def _turn(
        self,
        prepared: Prepared,
        guards: Guards,
        members: Members,
        aggregator: Aggregator,
        change: _Change,
    ) -> None:
        served, config = self._served, prepared.config
        conduct = conduct_for(prepared, guards.budget)
        before = served.composition.become(prepared.router, members, aggregator, conduct)
        at_home = served.dispatcher.engines
        away = [id_ for id_ in (*change.changed, *change.removed) if id_ in at_home]
        away.sort(key=lambda id_: _base(served.experts[id_]) is None)  # adapters first
        served.config, served.guards = config, guards
        served.experts.update({expert.id: expert for expert in config.pool})
        self._go_on(self._exchange(away, change, members))
        self._go_on(_retire(before, members))

    async def _exchange(self, away: Iterable[str], change: _Change, members: Members) -> None:
        """Sends hosted experts away for good and brings in those that are new, bases first."""
        served = self._served
        for expert_id in away:
            await served.dispatcher.remove(expert_id)
        comers = [
            served.experts[id_]
            for id_ in (*change.changed, *change.added)
            if isinstance(members.engines[id_], RemovedEngine)
        ]
        for expert in sorted(comers, key=lambda e: _base(e) is not None):
            members.engines[expert.id] = self._brought_in(expert)

    def _brought_in(self, expert: Expert) -> Engine:
        served = self._served
        engine = served.engine(expert, served.config)
        if not is_hosted(expert):
            return served.guards.around(expert, engine, is_hosted=False)
        served.dispatcher.add(tenant_of(served.config, expert), engine)
        outer = HostedEngine(engine, served.dispatcher)
        return served.guards.around(expert, outer, is_hosted=True)

    def _go_on(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("an expert could not be exchanged after a reload: %s", error)


@dataclass(frozen=True, slots=True)
class _Change:
    """What one file says of experts that another one did not, in the order of the new one."""

    kept: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def between(cls, served: Served, config: Config) -> _Change:
        """From whoever answers now, experts that an operator added among them."""
        before = {id_: served.experts[id_] for id_ in served.composition.pool.ids}
        there = [expert for expert in config.pool if expert.id in before]
        changed = {e.id for e in there if _asked_of(e) != _asked_of(before[e.id])}
        changed |= {e.id for e in there if _base(e) in changed}
        return cls(
            kept=tuple(e.id for e in there if e.id not in changed),
            added=tuple(e.id for e in config.pool if e.id not in before),
            changed=tuple(e.id for e in there if e.id in changed),
            removed=tuple(id_ for id_ in before if id_ not in config.pool.ids),
        )


def _asked_of(expert: Expert) -> Expert:
    """Without what only routers and clients are told."""
    return replace(expert, description="", skills=(), price=None, params_active_b=None)


def _base(expert: Expert) -> str | None:
    return expert.engine.base if isinstance(expert.engine, VllmLoraSpec) else None


async def _retire(before: Members, now: Members) -> None:
    """Stops what nobody asks any more, once those who did have their answers."""
    await before.left()
    stays = {id(engine) for engine in now.engines.values()}
    for engine in before.engines.values():
        is_hosted_here = any(isinstance(layer, HostedEngine) for layer in layers(engine))
        if id(engine) in stays or is_hosted_here:
            continue  # who is hosted here leaves by the dispatcher
        try:
            await engine.stop(_STOP_S)
        except CoeError as error:
            _LOG.warning("%s", error)


def _fixed(config: Config, key: str) -> ConfigError:
    return ConfigError(
        "is read at the start only; put it back as it was, or start the gateway again",
        file=str(config.file),
        key=key,
    )
