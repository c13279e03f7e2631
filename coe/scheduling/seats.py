"""What the rules of peers share: who sits where, who makes room, and a queue."""

from __future__ import annotations

from collections import deque

from coe.errors import CoeError
from coe.scheduling.effects import Effects
from coe.scheduling.terms import Residency, Site, Tenant, Ticket


class Seat:
    """One expert as a peer sees it."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.residency = Residency.DISK
        self.devices: tuple[str, ...] = ()
        self.in_flight = 0
        self.used_s = 0.0
        """When it came, was last handed a request, or last finished one."""
        self.makes_room_for: Seat | None = None


Room = tuple[tuple[str, ...], list[Seat]]
"""Devices, and who has to leave them first."""


class Peer:
    """What all peers share: memory, transitions and a queue in order of arrival."""

    def __init__(self, site: Site, effects: Effects) -> None:
        self._site = site
        self._effects = effects
        self._seats = {tenant.expert_id: Seat(tenant) for tenant in site.hosts}
        self._base = {t.expert_id: t.base or t.expert_id for t in site.tenants}
        self._free = dict(site.devices)
        self._queue: deque[Ticket] = deque()
        self._coming: dict[str, Seat] = {}
        """Experts to be loaded as soon as there is room, and the devices meant for them."""

    def on_start(self, now: float) -> None:
        for seat in self._seats.values():
            if seat.tenant.pinned:
                self._bring(now, seat, seat.tenant.placements[0], [])

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        self._queue.append(ticket)
        self._walk(now)

    def on_cancel(self, now: float, ticket: Ticket) -> None:
        self._drop(ticket)
        self._walk(now)

    def on_loaded(self, now: float, expert_id: str) -> None:
        seat = self._seats[expert_id]
        seat.residency = Residency.AWAKE
        seat.used_s = now
        self._walk(now)

    def on_load_failed(self, now: float, expert_id: str, error: CoeError) -> None:
        seat = self._seats[expert_id]
        self._vacate(seat)
        for ticket in self._waiting(seat):
            self._drop(ticket)
            self._effects.refuse(ticket, error)
        self._walk(now)

    def on_slept(self, now: float, expert_id: str, residue_gib: float | None = None) -> None:
        raise NotImplementedError("peers have no host memory")

    def on_evicted(self, now: float, expert_id: str) -> None:
        seat = self._seats[expert_id]
        self._vacate(seat)
        seat.makes_room_for = None
        self._load_coming()
        self._walk(now)

    def on_leave_failed(self, now: float, expert_id: str) -> None:
        self._effects.evict(expert_id)

    def on_crashed(self, now: float, expert_id: str) -> None:
        seat = self._seats[expert_id]
        seat.in_flight = 0
        self._vacate(seat)
        self._walk(now)

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        seat = self._seat(ticket)
        seat.in_flight -= 1
        seat.used_s = now
        self._walk(now)

    def on_tick(self, now: float) -> None:
        self._walk(now)

    def on_shutdown(self, now: float) -> None:
        raise NotImplementedError("peers are compared, not deployed")

    def next_wakeup(self) -> float | None:
        return None

    def _walk(self, now: float) -> None:
        """Goes through the queue after anything has happened."""
        raise NotImplementedError

    def _waiting(self, seat: Seat) -> list[Ticket]:
        return [ticket for ticket in self._queue if self._seat(ticket) is seat]

    def _drop(self, ticket: Ticket) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)

    def _seat(self, ticket: Ticket) -> Seat:
        return self._seats[self._base[ticket.expert_id]]

    def _is_open(self, seat: Seat) -> bool:
        """Awake and not asked to leave."""
        return seat.residency is Residency.AWAKE and seat.makes_room_for is None

    def _is_expected(self, seat: Seat) -> bool:
        return seat.residency is Residency.LOADING or seat.tenant.expert_id in self._coming

    def _hand(self, now: float, ticket: Ticket) -> None:
        seat = self._seat(ticket)
        seat.used_s = now
        if self._effects.grant(ticket):
            seat.in_flight += 1

    def _room(self, seat: Seat, may_leave: list[Seat]) -> Room | None:
        """Where it fits if the first few of those leave; None if nowhere."""
        for devices in self._site.placements(seat.tenant):
            free = {device: self._expected_free(device) for device in devices}
            leaving: list[Seat] = []
            for other in may_leave:
                if all(free[device] >= seat.tenant.gib for device in devices):
                    break
                if not set(other.devices).isdisjoint(devices):
                    leaving.append(other)
                    for device in other.devices:
                        if device in free:
                            free[device] += other.tenant.gib
            if all(free[device] >= seat.tenant.gib for device in devices):
                return devices, leaving
        return None

    def _expected_free(self, device: str) -> float:
        """Free there once those who are on their way have gone and come."""
        leaving = sum(
            seat.tenant.gib
            for seat in self._seats.values()
            if device in seat.devices
            and (seat.residency is Residency.LEAVING or seat.makes_room_for is not None)
        )
        coming = sum(s.tenant.gib for s in self._coming.values() if device in s.devices)
        return self._free[device] + leaving - coming

    def _bring(self, now: float, seat: Seat, devices: tuple[str, ...], leaving: list[Seat]) -> None:
        """Loads it once those have left; the busy ones finish first, and take nobody new."""
        seat.devices = devices
        self._coming[seat.tenant.expert_id] = seat
        for other in leaving:
            other.makes_room_for = seat
        self._send_off()
        self._load_coming()

    def _send_off(self) -> None:
        for seat in self._seats.values():
            if (
                seat.makes_room_for is not None
                and seat.residency is Residency.AWAKE
                and not seat.in_flight
            ):
                seat.residency = Residency.LEAVING
                self._effects.evict(seat.tenant.expert_id)

    def _load_coming(self) -> None:
        for expert_id, seat in list(self._coming.items()):
            if all(self._free[device] >= seat.tenant.gib for device in seat.devices):
                del self._coming[expert_id]
                seat.residency = Residency.LOADING
                for device in seat.devices:
                    self._free[device] -= seat.tenant.gib
                self._effects.load(expert_id, seat.devices)

    def _vacate(self, seat: Seat) -> None:
        for device in seat.devices:
            self._free[device] += seat.tenant.gib
        seat.residency = Residency.DISK
        seat.devices = ()

    def _least_recent(self, idle_only: bool) -> list[Seat]:
        """Those who may be sent away, least recently used first; idle ones before busy ones."""
        seats = [
            seat
            for seat in self._seats.values()
            if self._is_open(seat) and not seat.tenant.pinned and not (idle_only and seat.in_flight)
        ]
        return sorted(seats, key=lambda seat: (seat.in_flight > 0, seat.used_s))
