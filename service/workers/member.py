"""One of several processes behind a port, as far as it differs from a gateway that is alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coe.service.workers.channel import Channel, ChannelGone
from coe.service.workers.reloads import RELOAD, RELOAD_ALL, Reply
from coe.service.workers.seat import Seat
from coe.service.workers.supervisor import READY


class Member:
    """An app that is served by one of several processes. It hears the first of them for as long
    as it is served, and ends when that is gone.
    """

    def __init__(
        self, app: ASGIApp, seat: Seat, end: socket.socket, reload: Callable[[], Awaitable[Reply]]
    ) -> None:
        """`end`: the channel's. `reload`: reads the configuration again, here alone."""
        self._app = app
        self._seat = seat
        self._end = end
        self._reload = reload
        self._channel: Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._leave()
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._join()
            await send(message)

        await self._app(scope, watched_receive, watched_send)

    def ready(self) -> None:
        """Tells that requests are taken. On the event loop."""
        self._tasks.append(asyncio.create_task(self._tell_ready()))

    async def reload_all(self) -> Reply:
        """Has all of them read the configuration again."""
        assert self._channel is not None, "it is being served"
        try:
            return Reply.of_json(await self._channel.ask(RELOAD_ALL))
        except ChannelGone:
            return Reply(problem="the gateway is ending")

    async def _join(self) -> None:
        self._channel = await Channel.over(self._end, self._answer)
        self._tasks.append(asyncio.create_task(self._hear(self._channel)))
        if self._seat.metrics is not None:
            self._tasks.append(asyncio.create_task(self._seat.metrics.publishing()))

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self, channel: Channel) -> None:
        await channel.run()
        os.kill(os.getpid(), signal.SIGTERM)  # nobody is left to say when to end

    async def _tell_ready(self) -> None:
        assert self._channel is not None, "it is being served"
        try:
            await self._channel.ask(READY)
        except ChannelGone:
            return

    async def _answer(self, question: str) -> Mapping[str, Any]:
        assert question == RELOAD, question
        return (await self._reload()).as_json()
