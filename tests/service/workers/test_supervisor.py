"""The process that starts the others: who is started, started again, told and ended."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from coe.assembly.reloading import Reloaded
from coe.service.workers.channel import Channel
from coe.service.workers.reloads import RELOAD, RELOAD_ALL, Reply
from coe.service.workers.supervisor import READY, Supervisor

CHANGED = Reply(Reloaded("random/top-1", ("a",), ("b",), (), ()))


class FakeProcess:
    """A worker in this process: ready at once, and ended by its first signal."""

    def __init__(self, end: socket.socket, pid: int) -> None:
        self.pid = pid
        self.signals: list[int] = []
        self.n_reloads = 0
        self._end = socket.socket(fileno=end.detach())
        self._status = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live())
        self.channel: Channel | None = None

    async def wait(self) -> int:
        status: int = await asyncio.shield(self._status)
        return status

    def send_signal(self, signal: int) -> None:
        self.signals.append(signal)
        self.die(-signal)

    def die(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)
            self._life.cancel()
            if self.channel is None:
                self._end.close()

    async def _live(self) -> None:
        channel = self.channel = await Channel.over(self._end, self._answer)
        hearing = asyncio.create_task(channel.run())
        try:
            await channel.ask(READY)
            await hearing
        finally:
            hearing.cancel()
            channel.close()

    async def _answer(self, question: str) -> Mapping[str, Any]:
        assert question == RELOAD
        self.n_reloads += 1
        return CHANGED.as_json()


@dataclass
class Stage:
    """A supervisor over fakes, and all that was started and said."""

    n: int = 2
    started: list[tuple[int, FakeProcess]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    vacant: list[int] = field(default_factory=list)
    now_s: float = 0.0
    cannot_begin: bool = False
    launch_fails: OSError | None = None
    """The next time, and then no more."""

    def __post_init__(self) -> None:
        self.ready, self.stopping = asyncio.Event(), asyncio.Event()
        self.supervisor = Supervisor(
            self.n,
            self._launch,
            self.said.append,
            self.ready.set,
            self.stopping.set,
            self.vacant.append,
            lambda: self.now_s,
        )
        self.running = asyncio.create_task(self.supervisor.run())

    async def _launch(self, index: int, end: socket.socket) -> FakeProcess:
        if self.launch_fails is not None:
            error, self.launch_fails = self.launch_fails, None
            raise error
        process = FakeProcess(end, len(self.started))
        self.started.append((index, process))
        if self.cannot_begin:
            process.die(2)
        return process

    async def until_started(self, n: int) -> None:
        while len(self.started) < n:
            await asyncio.sleep(0)

    async def end(self) -> int:
        self.supervisor.end()
        return await asyncio.wait_for(self.running, 10)


async def test_others_are_started_once_the_first_serves() -> None:
    stage = Stage(3)
    await stage.until_started(1)
    assert [index for index, _ in stage.started] == [0]
    await asyncio.wait_for(stage.ready.wait(), 10)
    assert [index for index, _ in stage.started] == [0, 1, 2]
    assert await stage.end() == 0
    assert [process.signals for _, process in stage.started] == [[signal.SIGTERM]] * 3
    assert stage.stopping.is_set()


async def test_worker_that_cannot_begin_ends_the_gateway_with_its_status() -> None:
    stage = Stage()
    stage.cannot_begin = True
    assert await asyncio.wait_for(stage.running, 10) == 2
    assert len(stage.started) == 1, "what is wrong for one is wrong for all, and is told once"


async def test_killed_worker_is_started_again_in_its_place() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    stage.now_s = 60.0
    stage.started[1][1].die(-signal.SIGKILL)
    await asyncio.wait_for(stage.until_started(3), 10)
    assert stage.started[2][0] == 1
    assert stage.said == ["worker 1 was killed by SIGKILL; it is started again"]
    assert stage.vacant == [], "who comes waits for the new one"
    await stage.end()


async def test_worker_that_dies_young_leaves_its_place_for_a_while() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    stage.started[1][1].die(7)
    while not stage.said:
        await asyncio.sleep(0)
    assert stage.said == ["worker 1 ended with status 7; it is started again in 1 s"]
    assert stage.vacant == [1]
    assert await stage.end() == 0
    assert len(stage.started) == 2, "nobody is started once all are to end"


async def test_worker_that_no_process_is_to_be_had_for_is_tried_again() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    stage.now_s = 60.0
    stage.launch_fails = BlockingIOError(11, "Resource temporarily unavailable")
    stage.started[1][1].die(-signal.SIGKILL)
    await asyncio.wait_for(stage.until_started(3), 10)
    assert stage.started[2][0] == 1
    assert "worker 1 cannot be started: [Errno 11] Resource temporarily unavailable" in stage.said
    assert await stage.end() == 0


async def test_place_stays_open_where_nobody_else_serves() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    for _, process in stage.started:
        process.die(7)
    while len(stage.said) < 2:
        await asyncio.sleep(0)
    assert stage.vacant == [], "who comes waits at one of them"
    await stage.end()


async def test_reload_reaches_every_worker_and_is_told_once() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    assert await stage.supervisor.reload() == CHANGED
    assert [process.n_reloads for _, process in stage.started] == [1, 1]
    asker = stage.started[0][1].channel
    assert asker is not None
    assert Reply.of_json(await asker.ask(RELOAD_ALL)) == CHANGED
    assert [process.n_reloads for _, process in stage.started] == [2, 2]
    assert stage.said == ["reloaded: random/top-1; added b"] * 2
    await stage.end()


async def test_second_signal_is_passed_on_and_the_last_is_remembered() -> None:
    stage = Stage()
    await asyncio.wait_for(stage.ready.wait(), 10)
    for _, process in stage.started:
        process.die = lambda status: None  # type: ignore[method-assign]  # it drains
    stage.supervisor.end(signal.SIGINT)
    stage.supervisor.end(signal.SIGTERM)
    assert [process.signals for _, process in stage.started] == [
        [signal.SIGINT, signal.SIGTERM]
    ] * 2
    assert stage.supervisor.ended_by == signal.SIGTERM
    stage.running.cancel()
    with suppress(asyncio.CancelledError):
        await stage.running
