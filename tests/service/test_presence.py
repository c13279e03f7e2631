"""Clients that go: noticed soon, and whoever stays is answered."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from coe.service.presence import while_connected


class Client:
    """Says nothing until it goes."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.n_listened = 0

    async def receive(self) -> Message:
        self.n_listened += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_client_that_goes_ends_what_is_done_for_it() -> None:
    client, ended = Client(), asyncio.Event()

    async def serve() -> None:
        async with while_connected(client.receive):
            client.gone.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    with pytest.raises(ClientDisconnect):
        await serve()
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_what_is_over_at_once_is_not_watched() -> None:
    client = Client()
    async with while_connected(client.receive):
        pass
    assert client.n_listened == 0
    assert len(asyncio.all_tasks()) == 1


async def test_cancellation_by_others_stays_one() -> None:
    client = Client()

    async def serve() -> None:
        async with while_connected(client.receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
