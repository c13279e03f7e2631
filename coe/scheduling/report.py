"""One moment of a scheduler, for whoever looks: values only, nothing to decide on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from coe.scheduling.lane import Departure, Lane, Moves
from coe.scheduling.memory import Memory
from coe.scheduling.terms import Residency, Site, Tenant
from coe.scheduling.transitions import Counts


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The memory of one device, or of the host for those that sleep; GiB."""

    id: str
    budget_gib: float
    used_gib: float


@dataclass(frozen=True, slots=True)
class HostingReport:
    """How one hosted expert is."""

    residency: Residency
    departure: Departure | None
    """An operator's word that is not carried out yet."""
    devices: tuple[str, ...]
    """Where it is, moves to or sleeps."""
    gib: float
    """On each device while awake."""
    asleep_gib: float | None
    """On the host while asleep; None: it cannot sleep."""
    held_gib: float
    """On each of its devices now."""
    host_gib: float
    pinned: bool
    base: str | None
    """The expert it is an adapter on; the numbers are those of both then."""
    waiting: int
    running: int
    max_in_flight: int
    oldest_wait_s: float
    moving_s: float | None
    """Since the transition under way began; None: there is none."""
    moves: Moves
    moved_s: Mapping[str, float]
    """Spent on moves that succeeded, since the start: load, wake, sleep and evict."""
    load_s: float
    """As measured, like all that follow; the file's guess until then."""
    wake_s: float
    sleep_s: float
    service_s: float
    last_error: str | None
    """Why the last load failed; None once one has succeeded."""
    retry_in_s: float | None
    """Until the pause after a failure is over; None: there is none."""


@dataclass(frozen=True, slots=True)
class SiteReport:
    """Everything one scheduler has under it."""

    devices: tuple[DeviceReport, ...]
    host: DeviceReport
    experts: dict[str, HostingReport]
    counts: Counts
    n_waiting: int


@runtime_checkable
class Reported(Protocol):
    """A scheduler whose lanes can be looked at."""

    memory: Memory

    @property
    def site(self) -> Site: ...
    @property
    def lanes(self) -> Collection[Lane]: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def n_waiting(self) -> int: ...


def site_report(scheduler: Reported, now: float) -> SiteReport:
    """A copy of how things are now, which later events do not change."""
    site, free = scheduler.site, scheduler.memory.free
    lanes = {lane.expert_id: lane for lane in scheduler.lanes}
    used_gib = site.host_gib - scheduler.memory.host_free
    return SiteReport(
        tuple(DeviceReport(id_, gib, _near(gib - free[id_])) for id_, gib in site.devices.items()),
        DeviceReport("host", site.host_gib, _near(used_gib)),
        {
            tenant.expert_id: _hosting(lanes[tenant.base or tenant.expert_id], tenant, now)
            for tenant in site.tenants
        },
        replace(scheduler.counts),
        scheduler.n_waiting,
    )


def _hosting(lane: Lane, tenant: Tenant, now: float) -> HostingReport:
    oldest = lane.line.oldest()
    is_moving = lane.residency in (Residency.LOADING, Residency.LEAVING)
    return HostingReport(
        residency=lane.residency,
        departure=lane.departure,
        devices=lane.devices,
        gib=lane.tenant.gib,
        asleep_gib=lane.tenant.asleep_gib,
        held_gib=_near(lane.held_gib),
        host_gib=_near(lane.host_gib),
        pinned=lane.tenant.pinned,
        base=tenant.base,
        waiting=len(lane.line),
        running=lane.in_flight,
        max_in_flight=lane.tenant.max_in_flight,
        oldest_wait_s=0.0 if oldest is None else max(0.0, now - oldest.arrived_s),
        moving_s=max(0.0, now - lane.moved_at_s) if is_moving else None,
        moves=replace(lane.moves),
        moved_s={
            "load": lane.load_s.total,
            "wake": lane.wake_s.total,
            "sleep": lane.sleep_s.total,
            "evict": lane.evict_s.total,
        },
        load_s=lane.load_s.value,
        wake_s=lane.wake_s.value,
        sleep_s=lane.sleep_s.value,
        service_s=lane.service_s.value,
        last_error=None if lane.last_error is None else str(lane.last_error),
        retry_in_s=lane.retry_at_s - now if now < lane.retry_at_s else None,
    )


def _near(gib: float) -> float:
    """Without what rounding leaves of sums that went up and down."""
    return max(0.0, round(gib, 9))
