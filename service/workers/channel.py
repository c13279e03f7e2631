"""Questions and answers between a gateway's first process and one that it has started.

Lines of JSON over a socket that both ends hold for as long as they live, so that its end tells each
that the other is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from coe.errors import CoeError

_LOG = logging.getLogger("coe.service")
_MOST_BYTES = 16 * 1024 * 1024
"""Of one line."""

Answer = Callable[[str], Awaitable[Mapping[str, Any]]]
"""What to say to a question, which is one word."""


class ChannelGone(CoeError):
    """The process at the other end is not there any more."""

    def __init__(self) -> None:
        super().__init__("the process ended before it had answered")


class Channel:
    """One end, on its event loop. Both ends may ask, several questions at once."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
    ) -> None:
        self._reader, self._writer = reader, writer
        self._answer = answer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._is_gone = False

    @classmethod
    async def over(cls, end: socket.socket, answer: Answer) -> Channel:
        """Takes the socket's end over. `run` has to be awaited for anything to be heard."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_MOST_BYTES)
        return cls(reader, writer, answer)

    async def ask(self, question: str) -> Mapping[str, Any]:
        """Raises `ChannelGone`."""
        if self._is_gone:
            raise ChannelGone
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._say({"asks": question, "number": number})
        try:
            return await answer
        finally:
            del self._asked[number]

    async def run(self) -> None:
        """Returns once the other end is gone. What it had begun to answer is called off."""
        try:
            while line := await self._reader.readline():
                self._hear(orjson.loads(line))
        except (OSError, ValueError) as error:
            _LOG.warning("a channel between processes has failed: %s", error)
        finally:
            self._is_gone = True
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(ChannelGone())
            for task in self._answering:
                task.cancel()
            self._writer.close()

    def close(self) -> None:
        self._writer.close()

    def _hear(self, said: Mapping[str, Any]) -> None:
        if "asks" in said:
            task = asyncio.create_task(self._reply(said["asks"], said["number"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        asked = self._asked.get(said["number"])
        if asked is not None and not asked.done():
            asked.set_result(said["answer"])

    async def _reply(self, question: str, number: int) -> None:
        try:
            answer = await self._answer(question)
        except Exception:  # noqa: BLE001 - who has asked must not wait for ever
            _LOG.exception("%r could not be answered", question)
            answer = {"problem": "it failed by a defect of the gateway's; its log has the cause"}
        self._say({"answer": answer, "number": number})

    def _say(self, what: Mapping[str, Any]) -> None:
        if not self._is_gone:
            self._writer.write(orjson.dumps(what) + b"\n")
