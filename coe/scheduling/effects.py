"""The two sides of a scheduler: the events it is told, and what it can do to the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from coe.errors import CoeError
from coe.scheduling.terms import Tenant, Ticket


class Effects(Protocol):
    """Everything a scheduler can do to the world.

    Every method returns at once and never calls the scheduler back from inside: what comes of
    it is told later by an event. Each expert has at most one transition under way.
    """

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        """Disk to devices; answered by `on_loaded` or `on_load_failed`. The memory is free."""
        ...

    def wake(self, expert_id: str, devices: Sequence[str]) -> None:
        """Host memory back to the same devices; answered like `load`."""
        ...

    def prefetch(self, expert_id: str, devices: Sequence[str]) -> None:
        """A load or wake that nobody waits for yet; answered like `load`."""
        ...

    def sleep(self, expert_id: str) -> None:
        """Devices to host memory; answered by `on_slept` or `on_leave_failed`."""
        ...

    def evict(self, expert_id: str) -> None:
        """Stops it wherever it is; answered by `on_evicted` or `on_leave_failed`."""
        ...

    def grant(self, ticket: Ticket) -> bool:
        """The request may run now. False: the caller had already gone; count nothing."""
        ...

    def refuse(self, ticket: Ticket, error: CoeError) -> None:
        """The request will not run, and why."""
        ...


class Scheduler(Protocol):
    """Decides which expert is resident and who may run. Pure: events in, effects out.

    `now` never decreases from one event to the next. An event about something the scheduler
    did not ask for, or no longer knows, changes nothing.
    """

    def on_start(self, now: float) -> None:
        """Once, before any other event."""
        ...

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        """Grants, queues or refuses. Raises `UnknownExpert` for an expert that is not known,
        and ValueError for an id that is already waiting or granted.
        """
        ...

    def on_cancel(self, now: float, ticket: Ticket) -> None:
        """The caller has gone. A granted ticket still ends by `on_finish`."""
        ...

    def on_loaded(self, now: float, expert_id: str) -> None: ...

    def on_load_failed(self, now: float, expert_id: str, error: CoeError) -> None:
        """A load or wake failed and what it took is free again; the expert is on disk."""
        ...

    def on_slept(self, now: float, expert_id: str, residue_gib: float | None = None) -> None:
        """`residue_gib`: what was found still held on each device; None means as expected."""
        ...

    def on_evicted(self, now: float, expert_id: str) -> None: ...

    def on_leave_failed(self, now: float, expert_id: str) -> None:
        """A sleep or an eviction failed: the memory is still held."""
        ...

    def on_crashed(self, now: float, expert_id: str) -> None:
        """An awake or sleeping expert died by itself; its memory is free and its granted
        tickets are lost: no `on_finish` is needed for them.
        """
        ...

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        """A granted request is over to its last byte. `ok`: it ran to its end, so that how long
        it took is worth measuring.
        """
        ...

    def on_tick(self, now: float) -> None:
        """The time that `next_wakeup` named has come. Harmless at any other time."""
        ...

    def on_shutdown(self, now: float) -> None:
        """Refuses all who wait and every later arrival, and empties the devices."""
        ...

    def next_wakeup(self) -> float | None:
        """When `on_tick` is due if no event comes before; None: nothing is due. Asked again
        after every event.
        """
        ...


@runtime_checkable
class Operable(Protocol):
    """A scheduler that takes an operator's word. Experts of that id have to be known, or
    `UnknownExpert` is raised.
    """

    def is_leaving(self, expert_id: str) -> bool:
        """Whether one that was dismissed or removed has yet to leave."""
        ...

    def on_dismiss(self, now: float, expert_id: str, to_disk: bool = False) -> None:
        """Sends an expert away, to host memory if it can and `to_disk` is not said.

        Who waits now is served and what runs ends; then it leaves. Who comes meanwhile waits,
        and brings it back once it has left. Pinned, it is away until somebody asks for it.
        Raises `RequestError` for an adapter.
        """
        ...

    def on_add(self, now: float, tenant: Tenant) -> None:
        """One more expert, on disk. Raises `ConfigError` if it could never be loaded, or would
        keep another from it; nothing has changed then.
        """
        ...

    def on_remove(self, now: float, expert_id: str) -> None:
        """Refuses who waits for it and who comes, sends it away once what runs has ended, and
        forgets it. Raises `RequestError` for the base of others.
        """
        ...
