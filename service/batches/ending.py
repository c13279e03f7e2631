"""How a batch of a gateway ends: what it has come to is published, and then it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coe.service.batches.lines import BatchFile, LineRules, check_requests
from coe.service.batches.place import Place
from coe.service.request_limits import RequestLimits
from coe.store import BatchOver, BatchState, Store, StoredBatch

OUTPUT_PURPOSE = "batch_output"
Errors = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class End:
    """What a batch has come to. Reached again after a crash, it ends in the same files."""

    state: BatchState
    """`completed`, `failed`, `expired` or `cancelled`."""
    errors: Errors = ()

    async def reach(
        self,
        store: Store,
        batch: StoredBatch,
        place: Place,
        requests: BatchFile | None,
        rules: tuple[RequestLimits, float | None],
    ) -> None:
        """`requests` None: they were not read yet. `rules`: what a line may say, and the seconds
        for which is kept what was written. Raises `OSError` and `StoreError`.
        """
        limits, lifetime_s = rules
        move, state = store.batches.move, self.state
        if state == "completed":
            try:
                await move(batch.id, "finalizing")
            except BatchOver:
                state = "cancelled"  # Just now it was.
        output_id, error_id = None, None
        batch = await store.batches.get(batch.tenant, batch.id)
        if "in_progress" in batch.times:
            requests = requests or await _read_again(batch, place, limits)
            made = await asyncio.to_thread(place.publish, requests, state == "expired")
            store.batches.count(batch.id, len(requests), made.n_completed, made.n_failed)
            adopted = partial(_adopted, store, batch, lifetime_s)
            output_id = await adopted(f"{batch.id}_output.jsonl", made.output)
            error_id = await adopted(f"{batch.id}_error.jsonl", made.errors)
        step = partial(move, output_file_id=output_id, error_file_id=error_id, errors=self.errors)
        try:
            await step(batch.id, state)
        except BatchOver:
            await step(batch.id, "cancelled")  # While it was published.
        await asyncio.to_thread(place.leave)


async def _read_again(batch: StoredBatch, place: Place, limits: RequestLimits) -> BatchFile:
    rules = LineRules(None, (batch.endpoint,), None, limits)
    requests, _ = await asyncio.to_thread(check_requests, place.input, rules, 1)
    return requests


async def _adopted(
    store: Store, batch: StoredBatch, lifetime_s: float | None, name: str, path: Path | None
) -> str | None:
    """Once, also if the process before had come as far."""
    if path is None:
        return None
    for file in await store.files.all(batch.tenant):
        if file.filename == name and file.purpose == OUTPUT_PURPOSE:
            return file.id
    file = await store.files.adopt(batch.tenant, name, OUTPUT_PURPOSE, path, lifetime_s)
    return file.id
