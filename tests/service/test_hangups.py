"""SIGHUP: one reload at a time, and one more for those that come meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal

from starlette.types import Message, Receive, Scope, Send

from coe.service.hangups import Hangups


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})


class Reloads:
    """Counts; each ends when it is let go."""

    def __init__(self) -> None:
        self.n_begun = 0
        self.n_called_off = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self) -> None:
        self.n_begun += 1
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.n_called_off += 1
            raise


async def _told_to_end(app: Hangups, ends: asyncio.Queue[Message]) -> asyncio.Task[None]:
    sent: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, ends.get, sent.put))
    ends.put_nowait({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    return task


async def test_hangups_during_a_reload_make_for_one_more() -> None:
    reloads = Reloads()
    app = Hangups(_lifespan, reloads)
    app.hang_up()
    await reloads.begun.wait()
    for _ in range(3):
        app.hang_up()
        await asyncio.sleep(0)
    assert reloads.n_begun == 1
    reloads.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reloads.n_begun == 2


async def test_hangup_signal_reloads_while_served() -> None:
    reloads = Reloads()
    ends: asyncio.Queue[Message] = asyncio.Queue()
    served = await _told_to_end(Hangups(_lifespan, reloads), ends)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(reloads.begun.wait(), 5)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        ends.put_nowait({"type": "lifespan.shutdown"})
    await served
    assert (reloads.n_begun, reloads.n_called_off) == (1, 1)
