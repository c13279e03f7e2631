"""The thin layer between a pure scheduler and the world: asyncio tasks, timers and engines.

It decides nothing. Effects become tasks that start, put to sleep or stop engines; what comes of
them goes back to the scheduler as events, each from a fresh turn of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Protocol

from coe.engines.base import Engine
from coe.errors import CoeError, ConfigError, EngineError
from coe.scheduling.abilities import Mortal, Placed, Sleeper
from coe.scheduling.effects import Effects, Operable, Scheduler
from coe.scheduling.engine_effects import EngineEffects
from coe.scheduling.report import Reported, SiteReport, site_report
from coe.scheduling.terms import Tenant, Ticket

_LOG = logging.getLogger(__name__)
_STOP_S = 30.0

Clock = Callable[[], float]


class Driven(Scheduler, Protocol):
    """What a dispatcher asks of a scheduler besides."""

    @property
    def is_empty(self) -> bool:
        """Nobody waits or runs, and nothing is resident or moving."""
        ...

    def on_finish(self, now: float, ticket: Ticket, ok: bool = True) -> None:
        """`ok`: it ran to its end, so that how long it took is worth measuring."""
        ...


MakeScheduler = Callable[[Effects], Driven]


class Companion(Protocol):
    """Runs beside a dispatcher, from the first request to the shutdown."""

    def asked(self, now: float, expert_id: str) -> None:
        """Somebody asks for an expert. Returns at once."""
        ...

    async def run(self, now: Clock) -> None:
        """Is cancelled at the shutdown. `now` is the dispatcher's clock."""
        ...


class Dispatcher:
    """Runs one scheduler over engines. Everything happens on one event loop."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        make_scheduler: MakeScheduler,
        startup_timeout_s: float = 300.0,
        clock: Clock | None = None,
    ) -> None:
        """`clock` None: the running event loop's."""
        self.engines = dict(engines)
        self._startup_timeout_s = startup_timeout_s
        self._clock = clock
        self._numbers = count(1)
        self._turns: dict[str, asyncio.Future[None]] = {}
        self._n_running: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_started = False
        self._companions: list[Companion] = []
        self._end: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.scheduler = make_scheduler(EngineEffects(self))
        for engine in engines.values():
            if isinstance(engine, Mortal):
                engine.on_death(self._teller(engine.expert_id))

    @asynccontextmanager
    async def turn(
        self, expert_id: str, priority: int = 0, deadline_s: float | None = None
    ) -> AsyncIterator[None]:
        """Waits until the expert is ready and the request's turn has come; the body runs then.

        `deadline_s` is on the clock. Raises the scheduler's refusal.
        """
        self._start()
        for companion in self._companions:
            companion.asked(self.now(), expert_id)
        ticket = Ticket(str(next(self._numbers)), expert_id, priority, deadline_s)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[ticket.id] = granted
        try:
            self._tell(lambda now: self.scheduler.on_arrival(now, ticket))
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                # Granted and cancelled in the same turn of the loop.
                self._tell(lambda now: self.scheduler.on_finish(now, ticket, ok=False))
            elif not granted.done() or granted.cancelled():
                self._tell(lambda now: self.scheduler.on_cancel(now, ticket))
            raise
        finally:
            self._turns.pop(ticket.id, None)
        ok = False
        self._n_running[expert_id] += 1
        try:
            yield
            ok = True
        finally:
            self._n_running[expert_id] -= 1
            self._tell(lambda now: self.scheduler.on_finish(now, ticket, ok=ok))

    def accompany(self, companion: Companion) -> None:
        """Before the first request."""
        self._companions.append(companion)

    def tell(self, event: Callable[[float], None]) -> None:
        """One event for the scheduler, from somebody other than the engines. It gets the time."""
        self._tell(event)

    async def dismiss(self, expert_id: str, to_disk: bool = False) -> None:
        """Sends one away, as `Operable.on_dismiss` says; returns once it has left, if only for a
        moment. Giving up the wait does not call it off.
        """
        if self._end is not None:
            await asyncio.shield(self._end)
            return
        scheduler = self._operable()
        self._tell(lambda now: scheduler.on_dismiss(now, expert_id, to_disk))
        await self._until(lambda: not scheduler.is_leaving(expert_id))

    def add(self, tenant: Tenant, engine: Engine) -> None:
        """One more expert, stopped. Raises `ConfigError` as `Operable.on_add` does."""
        if tenant.expert_id in self.engines:
            raise ConfigError(f"expert {tenant.expert_id!r} exists, or has yet to leave")
        scheduler = self._operable()
        self._tell(lambda now: scheduler.on_add(now, tenant))
        self.engines[tenant.expert_id] = engine
        if isinstance(engine, Mortal):
            engine.on_death(self._teller(tenant.expert_id))

    def remove(self, expert_id: str) -> asyncio.Task[None]:
        """Refuses who waits for it. The task ends once what runs has ended and it is stopped for
        good. Raises as `Operable.on_remove` does.
        """
        scheduler = self._operable()
        self._tell(lambda now: scheduler.on_remove(now, expert_id))

        async def leave() -> None:
            await self._until(
                lambda: not scheduler.is_leaving(expert_id) and not self._n_running[expert_id]
            )
            await self._freed(self.engines.pop(expert_id))

        return self.spawn(leave())

    def report(self) -> SiteReport | None:
        """None for a scheduler that cannot be looked at."""
        scheduler = self.scheduler
        return site_report(scheduler, self.now()) if isinstance(scheduler, Reported) else None

    async def shut_down(self, timeout_s: float) -> None:
        """Refuses all who wait, lets the granted finish, and stops every engine.

        What is not over after `timeout_s` is stopped under way. Further calls wait for the first.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._shut_down(timeout_s))
        await asyncio.shield(self._end)

    async def _shut_down(self, timeout_s: float) -> None:
        if self._is_started:
            self._tell(self.scheduler.on_shutdown)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._until(lambda: self.scheduler.is_empty)
            except TimeoutError:
                _LOG.warning("experts were still busy after %g s and are stopped", timeout_s)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stops = (engine.stop(timeout_s) for engine in self.engines.values())
        await asyncio.gather(*stops, return_exceptions=True)

    def now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Runs one transition; keeps it from being forgotten."""

        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def granted(self, ticket: Ticket) -> bool:
        turn = self._turns.get(ticket.id)
        if turn is None or turn.done():
            return False
        turn.set_result(None)
        return True

    def refused(self, ticket: Ticket, error: CoeError) -> None:
        turn = self._turns.get(ticket.id)
        if turn is not None and not turn.done():
            turn.set_exception(error)

    async def bring(self, expert_id: str, devices: Sequence[str]) -> None:
        """Starts or wakes an expert and tells how it went."""
        engine = self.engines[expert_id]
        try:
            if isinstance(engine, Placed):
                engine.place(devices)
            await engine.ensure_ready(self._startup_timeout_s)
        except CoeError as caught:
            error = caught
            _LOG.warning("%s", error)
            await self._freed(engine)
            self._tell(lambda now: self.scheduler.on_load_failed(now, expert_id, error))
        else:
            self._tell(lambda now: self.scheduler.on_loaded(now, expert_id))

    async def put_to_sleep(self, expert_id: str) -> None:
        engine = self.engines[expert_id]
        try:
            if not isinstance(engine, Sleeper):
                raise EngineError(expert_id, "cannot sleep")
            residue_gib = await engine.sleep(_STOP_S)
        except CoeError as error:
            _LOG.warning("%s", error)
            self._tell(lambda now: self.scheduler.on_leave_failed(now, expert_id))
        else:
            self._tell(lambda now: self.scheduler.on_slept(now, expert_id, residue_gib))

    async def send_away(self, expert_id: str) -> None:
        if await self._freed(self.engines[expert_id]):
            self._tell(lambda now: self.scheduler.on_evicted(now, expert_id))
        else:
            self._tell(lambda now: self.scheduler.on_leave_failed(now, expert_id))

    def _operable(self) -> Operable:
        self._start()
        if not isinstance(self.scheduler, Operable):
            raise ConfigError("this pool's scheduler takes no operator's word")
        return self.scheduler

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    async def _freed(self, engine: Engine) -> bool:
        try:
            await engine.stop(_STOP_S)
        except CoeError as error:
            _LOG.warning("%s", error)
            return False
        return True

    def _teller(self, expert_id: str) -> Callable[[], None]:
        return lambda: self._tell(lambda now: self.scheduler.on_crashed(now, expert_id))

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._tell(self.scheduler.on_start)
            for companion in self._companions:
                self.spawn(companion.run(self.now))

    def _tell(self, event: Callable[[float], None]) -> None:
        """One event, and the timer for what is due if no other comes."""
        event(self.now())
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup_s = self.scheduler.next_wakeup()
        if wakeup_s is not None:
            delay_s = max(0.0, wakeup_s - self.now())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self._tell, self.scheduler.on_tick)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a transition of an expert failed by a defect of ours", exc_info=error)
