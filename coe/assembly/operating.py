"""What an operator may see of a pool and do to it while it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace

from coe.assembly.hosting import is_hosted, tenant_of
from coe.assembly.served import Served
from coe.config.describing import kind_of, read_expert
from coe.engines.base import Engine
from coe.errors import ConfigError, RequestError, UnknownExpert
from coe.experts import Expert, ExpertPool
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.report import DeviceReport, HostingReport, SiteReport
from coe.scheduling.transitions import Counts
from coe.telemetry import ExpertCounts

_STOP_S = 10.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class ExpertReport:
    """How one expert is, and what it has done since the start."""

    id: str
    kind: str
    state: str
    """Of its engine."""
    is_routed: bool
    """Whether the router may choose it; else it answers whoever names it."""
    is_removed: bool
    """It only finishes what it has begun."""
    running: int
    """Requests that were asked and are not over, those that wait among them."""
    counts: ExpertCounts
    hosting: HostingReport | None
    """None: it runs elsewhere, or takes no memory that is counted here."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One moment of a pool that serves."""

    router: str
    uptime_s: float
    requests: int
    """Of clients, since the start."""
    answers: int
    n_waiting: int
    experts: tuple[ExpertReport, ...]
    devices: tuple[DeviceReport, ...]
    host: DeviceReport
    """Memory of the host for experts that are asleep."""
    swaps: Counts
    """All swaps and tickets of hosted experts since the start."""


class Operator:
    """Sees and changes a pool that serves. On its event loop; nothing is written to files."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._composition = served.composition
        self._dispatcher = served.dispatcher
        self._retiring: set[asyncio.Task[None]] = set()
        self._began_s = time.monotonic()

    @property
    def startup_timeout_s(self) -> float:
        return self.served.config.startup_timeout_s

    def site(self) -> SiteReport | None:
        """What is hosted here; None: it cannot be looked at."""
        return self._dispatcher.report()

    def report(self) -> PoolReport:
        site = self._dispatcher.report()
        assert site is not None, "the pool's own scheduler can be looked at"
        counted = self._composition.counters
        there = dict.fromkeys((*self._composition.pool.ids, *site.experts))
        experts = (
            self._expert(id_, counted.experts.get(id_, ExpertCounts()), site.experts.get(id_))
            for id_ in there
        )
        return PoolReport(
            router=self._composition.router.name,
            uptime_s=time.monotonic() - self._began_s,
            requests=counted.requests,
            answers=counted.answers,
            n_waiting=site.n_waiting,
            experts=tuple(experts),
            devices=site.devices,
            host=site.host,
            swaps=site.counts,
        )

    def expert(self, expert_id: str) -> ExpertReport:
        """Raises `UnknownExpert`."""
        reports = {expert.id: expert for expert in self.report().experts}
        if expert_id not in reports:
            raise UnknownExpert(expert_id, reports)
        return reports[expert_id]

    async def warm(self, expert_id: str, timeout_s: float) -> None:
        """Returns once it has been ready; its room may be needed again at once. Raises
        `StartupError` if it is not in time.
        """
        self._composition.pool.expert(expert_id)
        await self._composition.engines[expert_id].ensure_ready(timeout_s)

    async def dismiss(self, expert_id: str, to_disk: bool, timeout_s: float) -> bool:
        """Sends it away, to host memory if it can and `to_disk` is not said; whether it has left
        in time. What has not goes on leaving.
        """
        self._composition.pool.expert(expert_id)
        if expert_id not in self._dispatcher.engines:
            raise RequestError(
                f"expert {expert_id!r} takes no memory that is counted here; there is nothing to "
                "send away"
            )
        return await _in_time(self._dispatcher.dismiss(expert_id, to_disk), timeout_s)

    def add(self, given: Mapping[str, object]) -> Expert:
        """One more expert, as it would stand under `experts` in the pool's file. It answers by
        name at once. Raises `ConfigError` that names the key, and has changed nothing then.
        """
        self._check_alone()
        expert = read_expert(given, self.served.config.file, self.served.config.reliability)
        pool = ExpertPool((*self._composition.pool.experts, expert))
        config = replace(self.served.config, pool=pool)
        try:
            inner = self.served.engine(expert, config)
            tenant = tenant_of(config, expert) if is_hosted(expert) else None
            engine = inner if tenant is None else HostedEngine(inner, self._dispatcher)
            engine = self.served.guards.around(expert, engine, tenant is not None)
            if tenant is not None:
                self._dispatcher.add(tenant, inner)
        except ConfigError as error:
            _, _, key = (error.key or "").partition("].")
            raise ConfigError(error.problem, key=key or None) from None
        self._composition.members.add(expert, engine)
        self.served.experts[expert.id] = expert
        return expert

    async def remove(self, expert_id: str, timeout_s: float) -> bool:
        """Takes it out of the pool: nobody is sent to it any more, who waits for it is refused,
        and what runs ends. Whether all that is over in time; it goes on if not.
        """
        self._check_alone()
        members = self._composition.members
        members.check_removable(expert_id)
        if expert_id == self.served.config.router.aggregator.expert:
            raise RequestError(
                f"expert {expert_id!r} writes this pool's answers (router.aggregator.expert) and "
                "cannot be removed while it serves"
            )
        engine = members.engines[expert_id]
        if expert_id in self._dispatcher.engines:
            leaving = self._dispatcher.remove(expert_id)
        else:
            leaving = asyncio.create_task(self._retire(expert_id, engine))
            self._retiring.add(leaving)
            leaving.add_done_callback(self._retiring.discard)
        members.remove(expert_id)
        return await _in_time(asyncio.shield(leaving), timeout_s)

    def _check_alone(self) -> None:
        """Raises `RequestError`: the other processes, and who replaces one, go by the file."""
        if not self.served.is_alone:
            raise RequestError(
                "a gateway of several workers has the experts of its file; change them there and "
                "have it read again (POST /admin/reload)"
            )

    async def _retire(self, expert_id: str, engine: Engine) -> None:
        while _running(self._composition.count_of(expert_id)) > 0:
            await asyncio.sleep(_LOOK_S)
        await engine.stop(_STOP_S)

    def _expert(
        self, expert_id: str, counts: ExpertCounts, hosting: HostingReport | None
    ) -> ExpertReport:
        members = self._composition.members
        is_here = expert_id in members.pool.ids
        engine = members.engines[expert_id] if is_here else self._dispatcher.engines[expert_id]
        return ExpertReport(
            id=expert_id,
            kind=kind_of(self.served.experts[expert_id].engine),
            state=engine.state.value,
            is_routed=is_here and expert_id in self._composition.router.pool.ids,
            is_removed=not is_here,
            running=_running(counts),
            counts=counts,
            hosting=hosting,
        )


def _running(counts: ExpertCounts) -> int:
    over = counts.answers + counts.abandoned + sum(counts.failures.values())
    return max(0, counts.requests - over)


async def _in_time(work: Awaitable[None], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except TimeoutError:
        return False
    return True
