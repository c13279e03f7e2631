"""One memory budget for all local experts: who is resident, and who leaves for whom.

`victims` decides and is pure; `LocalMemory` carries the decision out. The sizes are those of
the weights, measured before loading. Rooms are given in the order they were asked for: while
an expert waits for a busy one to finish, requests for that busy one queue behind it, so a
steady stream of requests for one expert cannot keep another out for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from coe.errors import StartupError

_GIB = 1024**3


class Tenant(Protocol):
    """A local engine, as the ledger sees it. Called on the event loop only."""

    @property
    def expert_id(self) -> str: ...

    def size_bytes(self) -> int:
        """What it will occupy. Raises `StartupError` if that cannot be told."""
        ...

    async def load(self) -> None: ...

    async def unload(self) -> None:
        """Frees the memory before it returns. Called only while the tenant is not busy.

        If it is cancelled or fails, the memory is free before the next `load` takes any.
        """
        ...


@dataclass(frozen=True, slots=True)
class Occupant:
    """One resident expert, as the decision sees it."""

    expert_id: str
    size_bytes: int
    last_used: int
    """Larger is more recent."""
    is_busy: bool


def victims(
    needed_bytes: int, budget_bytes: int, occupants: Collection[Occupant]
) -> tuple[str, ...]:
    """Who has to leave so that `needed_bytes` fit, in the order they should go.

    Idle experts go before busy ones (which are to be waited for, not thrown out), and within
    each kind the least recently used first. No more of them than necessary. Expects
    `needed_bytes <= budget_bytes`.
    """
    free = budget_bytes - sum(occupant.size_bytes for occupant in occupants)
    leaving: list[Occupant] = []
    for occupant in sorted(occupants, key=lambda o: (o.is_busy, o.last_used)):
        if free >= needed_bytes:
            break
        leaving.append(occupant)
        free += occupant.size_bytes
    for occupant in reversed(leaving.copy()):
        # A large one that came later can make an earlier small one's sacrifice needless.
        if free - occupant.size_bytes >= needed_bytes:
            leaving.remove(occupant)
            free -= occupant.size_bytes
    return tuple(occupant.expert_id for occupant in leaving)


@dataclass(slots=True, eq=False)
class _Seat:
    tenant: Tenant
    size_bytes: int = 0
    """Counted from before loading until after unloading; 0 means not resident."""
    is_loaded: bool = False
    users: int = 0
    last_used: int = 0
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    admission: asyncio.Task[None] | None = None


class LocalMemory:
    """The ledger that local engines share, and the one thread that runs their torch code."""

    def __init__(self, budget_gib: float, threads: int = 1) -> None:
        """`threads` is how many torch computes with on a CPU."""
        self.threads = threads
        self.budget_bytes = int(budget_gib * _GIB)
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="coe-local")
        self._seats: dict[str, _Seat] = {}
        self._leaving: frozenset[str] = frozenset()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ticks = 0

    @property
    def resident_bytes(self) -> int:
        """Never more than `budget_bytes`; an expert counts from before it is loaded."""
        return sum(seat.size_bytes for seat in self._seats.values())

    @property
    def residents(self) -> tuple[str, ...]:
        return tuple(id_ for id_, seat in self._seats.items() if seat.is_loaded)

    async def hold(self, tenant: Tenant) -> None:
        """Returns once the tenant is loaded, counted as in use until `release`.

        Loads it if need be, evicting idle experts and waiting for busy ones. Raises what
        loading raises, and `StartupError` if the tenant alone exceeds the budget.
        """
        seat = self._seats.setdefault(tenant.expert_id, _Seat(tenant))
        if seat.is_loaded and tenant.expert_id not in self._leaving:
            self._grant(seat)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seat.waiters.append(waiter)
        if seat.admission is None:
            seat.admission = asyncio.create_task(self._admit(seat))
        try:
            await waiter
        except asyncio.CancelledError:
            # Granted and cancelled in the same breath: give back what nobody will use.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(tenant)
            raise

    def release(self, tenant: Tenant) -> None:
        """Ends one use that `hold` granted."""
        self._seats[tenant.expert_id].users -= 1
        self._changed.set()

    async def vacate(self, tenant: Tenant) -> None:
        """Unloads the tenant once nothing uses it. Idempotent.

        Those who wait for the tenant to be let in get a `StartupError`.
        """
        seat = self._seats.get(tenant.expert_id)
        if seat is None:
            return
        for waiter in seat.waiters:
            if not waiter.done():
                waiter.set_exception(
                    StartupError(tenant.expert_id, "was stopped while it waited for memory")
                )
        async with self._turn:
            await self._empty(lambda: (tenant.expert_id,) if seat.is_loaded else ())

    def _grant(self, seat: _Seat) -> None:
        self._ticks += 1
        seat.last_used = self._ticks
        seat.users += 1

    async def _admit(self, seat: _Seat) -> None:
        """Makes one expert resident and lets in everyone who waits for it."""
        try:
            async with self._turn:
                if not seat.is_loaded:
                    await self._move_in(seat)
                for waiter in seat.waiters:
                    if not waiter.done():
                        self._grant(seat)
                        waiter.set_result(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear it
            for waiter in seat.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            seat.waiters.clear()
            seat.admission = None

    async def _move_in(self, seat: _Seat) -> None:
        needed = seat.tenant.size_bytes()
        if needed > self.budget_bytes:
            raise StartupError(
                seat.tenant.expert_id,
                f"needs {needed / _GIB:.3g} GiB and `local_memory_gib` is "
                f"{self.budget_bytes / _GIB:.3g}; raise it, or give the expert a smaller dtype",
            )
        await self._empty(lambda: victims(needed, self.budget_bytes, self._occupants()))
        seat.size_bytes = needed
        try:
            await seat.tenant.load()
            seat.is_loaded = True
        finally:
            if not seat.is_loaded:
                seat.size_bytes = 0

    async def _empty(self, wanted: _Plan) -> None:
        """Unloads whom the plan names, asked anew whenever a use ends, once none is busy."""
        try:
            while True:
                self._changed.clear()
                plan = wanted()
                self._leaving = frozenset(plan)
                if not any(self._seats[expert_id].users for expert_id in plan):
                    break
                await self._changed.wait()
            for expert_id in plan:
                seat = self._seats[expert_id]
                seat.is_loaded = False
                try:
                    await seat.tenant.unload()
                finally:
                    seat.size_bytes = 0
        finally:
            self._leaving = frozenset()

    def _occupants(self) -> list[Occupant]:
        return [
            Occupant(id_, seat.size_bytes, seat.last_used, seat.users > 0)
            for id_, seat in self._seats.items()
            if seat.is_loaded
        ]


class _Plan(Protocol):
    def __call__(self) -> tuple[str, ...]: ...
