"""Expired files go at the start and every so often, whatever the disk does in between."""

from __future__ import annotations

import asyncio

import pytest

from coe.errors import StoreError
from coe.service.files.sweeping import sweeping


async def test_files_are_swept_at_once_and_again(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[int | Exception] = [2, StoreError("the disk is full"), OSError("no"), 0]
    is_done = asyncio.Event()

    async def sweep() -> int:
        outcome = outcomes.pop(0)
        if not outcomes:
            is_done.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    task = asyncio.create_task(sweeping(sweep, every_s=0.0))
    await asyncio.wait_for(is_done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "expired files cannot be swept away: the disk is full",
        "expired files cannot be swept away: no",
    ]
