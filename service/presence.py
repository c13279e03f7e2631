"""Notices that the client has gone."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

_UNWATCHED_S = 0.1
"""Most that are answered at once are over by then, and watching one costs a task."""


class while_connected:
    """Cancels the block soon after the client goes away, and raises `ClientDisconnect` then.

    For use after the body was read: nothing else may call `receive` meanwhile.
    """

    __slots__ = ("_is_gone", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_S, self._begin)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._is_gone and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientDisconnect from None

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._task.cancel()
