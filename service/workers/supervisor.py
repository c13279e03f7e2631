"""The first process of a gateway of several: starts the others, and again whoever dies.

It serves nobody. What a client sends goes to one of the others by the kernel's choice, and what the
operator says (signals, a reload) goes by here to all of them.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from coe.errors import ConfigError
from coe.service.workers.channel import Channel, ChannelGone
from coe.service.workers.reloads import RELOAD, RELOAD_ALL, Reply, merged

READY = "ready"
_LONG_S = 10.0
"""Who has lived for so long is started again at once."""
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Process(Protocol):
    """One that was started."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit status, negative for the signal that has killed it."""
        ...

    def send_signal(self, signal: int) -> None: ...


Launch = Callable[[int, socket.socket], Awaitable[Process]]
"""Starts the worker of this place, which inherits the socket's end."""
Say = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Worker:
    process: Process
    channel: Channel
    is_ready: bool = False


@dataclass(slots=True, eq=False)
class Supervisor:
    """Belongs to one event loop."""

    n: int
    launch: Launch
    say: Say
    on_ready: Callable[[], None]
    """Called once, when all of them serve."""
    on_stopping: Callable[[], None]
    """Called once, when no more is to be taken on."""
    on_vacant: Callable[[int], None] = lambda index: None
    """Called for a place that nobody will serve in for a while, where others serve."""
    monotonic: Callable[[], float] = time.monotonic
    ended_by: int | None = field(default=None, init=False)
    """The signal; None: none has."""
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _first_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _has_served: bool = False
    _failed: int | None = None

    async def run(self) -> int:
        """Returns once all have ended: the exit status of one that could not begin, else 0."""
        # The first alone: what keeps it from serving would keep all of them, and is told once.
        first = asyncio.create_task(self._keep(0))
        is_ready = asyncio.create_task(self._first_ready.wait())
        await asyncio.wait((first, is_ready), return_when=asyncio.FIRST_COMPLETED)
        is_ready.cancel()
        others = () if self._stopping.is_set() else range(1, self.n)
        await asyncio.gather(first, *(self._keep(index) for index in others))
        return self._failed or 0

    def end(self, number: int = signal.SIGTERM) -> None:
        """What a signal does: the first lets requests end in their time, the next at once."""
        self.ended_by = number if self._failed is None else None
        if not self._stopping.is_set():
            self._stopping.set()
            self.on_stopping()
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def reload(self) -> Reply:
        """Every worker reads the file again; what came of it, as one answer."""
        async with self._reloading:
            workers = dict(self._workers)
            replies = await asyncio.gather(*(_reloaded(one) for one in workers.values()))
            reply = merged(dict(zip(workers, replies, strict=True)))
            self.say(reply.told)
            return reply

    async def _keep(self, index: int) -> None:
        """Has a worker in this place until the end."""
        pause_s = _PAUSE_S
        while not self._stopping.is_set():
            began_s = self.monotonic()
            status = await self._lifetime(index)
            if self._stopping.is_set():
                return
            if not self._has_served:
                self._failed = status if status > 0 else 1
                self.end()
                return
            lived_s = self.monotonic() - began_s
            pause_s = 0.0 if lived_s >= _LONG_S else max(_PAUSE_S, pause_s)
            if pause_s and any(worker.is_ready for worker in self._workers.values()):
                self.on_vacant(index)
            after = f" in {pause_s:g} s" if pause_s else ""
            self.say(f"worker {index} {_ended(status)}; it is started again{after}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2.0 * pause_s)

    async def _lifetime(self, index: int) -> int:
        """One worker, from its start to its end: its exit status."""
        mine, its = socket.socketpair()
        try:
            process = await self.launch(index, its)
        except (OSError, ConfigError) as error:
            # The others serve on: it may be only now that no process is to be had.
            mine.close()
            self.say(f"worker {index} cannot be started: {error}")
            return 1
        finally:
            its.close()
        channel = await Channel.over(mine, lambda question: self._answer(index, question))
        self._workers[index] = _Worker(process, channel)
        hearing = asyncio.create_task(channel.run())
        try:
            if self._stopping.is_set():  # while it was started
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            return await process.wait()
        finally:
            del self._workers[index]
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            channel.close()  # it may not even have begun to be heard

    async def _answer(self, index: int, question: str) -> Mapping[str, Any]:
        if question == RELOAD_ALL:
            return (await self.reload()).as_json()
        assert question == READY, question
        self._workers[index].is_ready = True
        self._first_ready.set()
        if not self._has_served and sum(w.is_ready for w in self._workers.values()) == self.n:
            self._has_served = True
            self.on_ready()
        return {}


async def _reloaded(worker: _Worker) -> Reply:
    try:
        return Reply.of_json(await worker.channel.ask(RELOAD))
    except ChannelGone as error:
        return Reply(problem=str(error))


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def obey_signals(supervisor: Supervisor) -> None:
    """Signals of this process become the operator's word to all. On the event loop."""
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, supervisor.end, number)
    reloads: set[asyncio.Task[Reply]] = set()

    def reload() -> None:
        task = loop.create_task(supervisor.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
