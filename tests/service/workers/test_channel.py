"""Questions between two processes: answered in any order, and never waited for in vain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coe.service.workers.channel import Answer, Channel, ChannelGone


async def _nothing(question: str) -> Mapping[str, Any]:
    raise AssertionError("nobody asks this end")


@asynccontextmanager
async def _joined(answer: Answer) -> AsyncIterator[tuple[Channel, Callable[[], None]]]:
    """The end that asks, and what makes the other one vanish."""
    mine, its = socket.socketpair()
    ends = [await Channel.over(mine, _nothing), await Channel.over(its, answer)]
    runs = [asyncio.create_task(end.run()) for end in ends]
    yield ends[0], ends[1].close
    for end in ends:
        end.close()
    await asyncio.wait_for(asyncio.gather(*runs), 10)


async def test_answers_reach_those_who_asked_whatever_their_order() -> None:
    gate = asyncio.Event()

    async def answer(question: str) -> Mapping[str, Any]:
        if question == "slow":
            await gate.wait()
        return {"to": question}

    async with _joined(answer) as (asker, _):
        slow = asyncio.create_task(asker.ask("slow"))
        assert await asker.ask("quick\n") == {"to": "quick\n"}
        gate.set()
        assert await slow == {"to": "slow"}


async def test_question_that_makes_the_other_end_fail_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(question: str) -> Mapping[str, Any]:
        raise RuntimeError("a defect")

    async with _joined(answer) as (asker, _):
        assert "its log has the cause" in (await asker.ask("anything"))["problem"]
    assert "a defect" in caplog.text


async def test_who_waits_for_a_process_that_ends_is_told() -> None:
    asked = asyncio.Event()

    async def answer(question: str) -> Mapping[str, Any]:
        asked.set()
        await asyncio.Event().wait()
        return {}

    async with _joined(answer) as (asker, vanish):
        waiting = asyncio.create_task(asker.ask("anything"))
        await asked.wait()
        vanish()
        with pytest.raises(ChannelGone):
            await waiting
        with pytest.raises(ChannelGone):
            await asker.ask("more")
