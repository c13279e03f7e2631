"""A discrete-event simulator with a virtual clock, around any `Scheduler`.

It plays the world: experts take time to load and to serve, memory is counted independently of
the scheduler's own ledger, and a rule of the house that is broken raises at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from coe.errors import CoeError
from coe.scheduling.effects import Effects, Scheduler
from coe.scheduling.memory import SLACK_GIB
from coe.scheduling.service_model import Batch, ServiceModel
from coe.scheduling.terms import Residency, Site, Tenant, Ticket
from coe.scheduling.traces import Arrival


class BrokenRule(AssertionError):
    """The scheduler did what no scheduler may do."""


@dataclass(slots=True, eq=False)
class Record:
    """What became of one arrival."""

    arrival: Arrival
    started_s: float | None = None
    """When it began to run, not when it was handed to the expert."""
    ended_s: float | None = None
    refused: CoeError | None = None


@dataclass(slots=True, eq=False)
class Host:
    """One expert in the simulated world."""

    tenant: Tenant
    batch: Batch
    residency: Residency = Residency.DISK
    devices: tuple[str, ...] = ()
    held_gib: float = 0.0
    host_gib: float = 0.0
    swapping_s: float = 0.0
    """Time spent loading, waking, sleeping and leaving, all told."""
    version: int = 0
    """Changes with each change of the batch, so that ends foretold before are void."""


@dataclass(slots=True, eq=False)
class Run:
    """What a simulation left behind."""

    records: list[Record]
    loads: int = 0
    """From disk and from host memory together."""
    busy_s: float = 0.0
    swapping_s: float = 0.0
    makespan_s: float = 0.0
    order: list[str] = field(default_factory=list)
    """Every load in its order, by expert."""


class Simulator(Effects):
    """One site with its experts, driven by a trace."""

    def __init__(
        self,
        site: Site,
        models: Mapping[str, ServiceModel] | ServiceModel,
        scheduler: Callable[[Site, Effects], Scheduler],
    ) -> None:
        self._site = site
        self._bases = {t.expert_id: t.base or t.expert_id for t in site.tenants}
        self._hosts = {
            tenant.expert_id: Host(
                tenant,
                Batch(models if isinstance(models, ServiceModel) else models[tenant.expert_id]),
            )
            for tenant in site.hosts
        }
        self._free = dict(site.devices)
        self._host_free = site.host_gib
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._n_events = 0
        self._now = 0.0
        self._records: dict[str, Record] = {}
        self._tickets: dict[str, Ticket] = {}
        self._next_tick_s: float | None = None
        self._run = Run([])
        self.scheduler = scheduler(site, self)

    def run(self, trace: Sequence[Arrival]) -> Run:
        """Plays the trace until everything is answered."""
        for arrival in trace:
            self._at(arrival.at_s, self._arrive(arrival))
        self.scheduler.on_start(0.0)
        while self._events:
            now, _, event = heappop(self._events)
            self._now = now
            event(now)
            self._plan_tick()
        self._run.records = list(self._records.values())
        self._run.makespan_s = max(
            (r.ended_s for r in self._run.records if r.ended_s is not None), default=0.0
        )
        self._run.busy_s = sum(host.batch.busy_s for host in self._hosts.values())
        self._run.swapping_s = sum(host.swapping_s for host in self._hosts.values())
        waiting = [r for r in self._run.records if r.ended_s is None and r.refused is None]
        if waiting:
            raise BrokenRule(f"{len(waiting)} requests were never answered")
        return self._run

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        self._load(expert_id, devices, self._hosts[expert_id].tenant.costs.load_s)

    def wake(self, expert_id: str, devices: Sequence[str]) -> None:
        host = self._hosts[expert_id]
        if host.residency is not Residency.ASLEEP or tuple(devices) != host.devices:
            raise BrokenRule(f"{expert_id} does not sleep on {devices}")
        self._load(expert_id, devices, host.tenant.costs.wake_s)

    def prefetch(self, expert_id: str, devices: Sequence[str]) -> None:
        if self._hosts[expert_id].residency is Residency.ASLEEP:
            self.wake(expert_id, devices)
        else:
            self.load(expert_id, devices)

    def sleep(self, expert_id: str) -> None:
        host = self._hosts[expert_id]
        if host.tenant.asleep_gib is None or host.residency is not Residency.AWAKE:
            raise BrokenRule(f"{expert_id} cannot go to sleep")
        self._leave(host, host.tenant.costs.sleep_s, self._slept)
        self._hold(host, host.held_gib, host.tenant.asleep_gib)

    def evict(self, expert_id: str) -> None:
        host = self._hosts[expert_id]
        self._leave(host, host.tenant.costs.evict_s, self._evicted)

    def grant(self, ticket: Ticket) -> bool:
        host = self._hosts[self._bases[ticket.expert_id]]
        if host.residency is not Residency.AWAKE:
            raise BrokenRule(f"{ticket.id} was granted on {ticket.expert_id}, which is not awake")
        work_s = self._records[ticket.id].arrival.work_s
        self._began(host.batch.add(self._now, ticket.id, work_s))
        self._plan_end(host)
        return True

    def refuse(self, ticket: Ticket, error: CoeError) -> None:
        self._records[ticket.id].refused = error

    def _arrive(self, arrival: Arrival) -> Callable[[float], None]:
        def event(now: float) -> None:
            ticket = Ticket(
                f"{len(self._records)}", arrival.expert_id, arrival.priority, arrival.deadline_s
            )
            self._records[ticket.id] = Record(arrival)
            self._tickets[ticket.id] = ticket
            self.scheduler.on_arrival(now, ticket)

        return event

    def _load(self, expert_id: str, devices: Sequence[str], seconds: float) -> None:
        host = self._hosts[expert_id]
        if host.residency not in (Residency.DISK, Residency.ASLEEP):
            raise BrokenRule(f"{expert_id} is loaded while it is {host.residency.value}")
        host.residency = Residency.LOADING
        host.devices = tuple(devices)
        host.swapping_s += seconds
        self._run.loads += 1
        self._run.order.append(expert_id)
        self._hold(host, host.tenant.gib, host.host_gib)

        def loaded(now: float) -> None:
            host.residency = Residency.AWAKE
            self._hold(host, host.tenant.gib, 0.0)
            self.scheduler.on_loaded(now, expert_id)

        self._at(self._now + seconds, loaded)

    def _leave(
        self, host: Host, seconds: float, then: Callable[[Host], Callable[[float], None]]
    ) -> None:
        if len(host.batch):
            raise BrokenRule(f"{host.tenant.expert_id} is sent away with {len(host.batch)} running")
        if host.tenant.pinned or host.residency not in (Residency.AWAKE, Residency.ASLEEP):
            raise BrokenRule(f"{host.tenant.expert_id} may not leave: {host.residency.value}")
        host.residency = Residency.LEAVING
        host.swapping_s += seconds
        self._at(self._now + seconds, then(host))

    def _slept(self, host: Host) -> Callable[[float], None]:
        def event(now: float) -> None:
            host.residency = Residency.ASLEEP
            self._hold(host, host.tenant.residue_gib, host.host_gib)
            self.scheduler.on_slept(now, host.tenant.expert_id)

        return event

    def _evicted(self, host: Host) -> Callable[[float], None]:
        def event(now: float) -> None:
            host.residency = Residency.DISK
            self._hold(host, 0.0, 0.0)
            host.devices = ()
            self.scheduler.on_evicted(now, host.tenant.expert_id)

        return event

    def _hold(self, host: Host, gib: float, host_gib: float) -> None:
        for device in host.devices:
            self._free[device] += host.held_gib - gib
            if self._free[device] < -SLACK_GIB:
                raise BrokenRule(f"device {device!r} is over its budget")
        self._host_free += host.host_gib - host_gib
        if self._host_free < -SLACK_GIB:
            raise BrokenRule("the host's memory is over its budget")
        host.held_gib, host.host_gib = gib, host_gib

    def _began(self, ticket_ids: Sequence[str]) -> None:
        for ticket_id in ticket_ids:
            self._records[ticket_id].started_s = self._now

    def _plan_end(self, host: Host) -> None:
        host.version += 1
        version = host.version
        end_s = host.batch.next_end_s()
        if end_s is None:
            return

        def ends(now: float) -> None:
            if host.version != version:
                return
            done, begun = host.batch.finish(now)
            self._began(begun)
            self._records[done].ended_s = now
            self._plan_end(host)
            self.scheduler.on_finish(now, self._tickets[done])

        self._at(max(end_s, self._now), ends)

    def _plan_tick(self) -> None:
        at_s = self.scheduler.next_wakeup()
        if at_s is None or (self._next_tick_s is not None and self._next_tick_s <= at_s):
            return
        at_s = max(at_s, self._now)
        self._next_tick_s = at_s

        def tick(now: float) -> None:
            if self._next_tick_s == now:
                self._next_tick_s = None
                self.scheduler.on_tick(now)

        self._at(at_s, tick)

    def _at(self, at_s: float, event: Callable[[float], None]) -> None:
        self._n_events += 1
        heappush(self._events, (at_s, self._n_events, event))
