"""The batches of a gateway: taken on, gone on with after a restart, and brought to their end.

Each is a task from its creation to its end, across restarts. What has been answered is in its
journal, and its state in the store, where a step is written before it is taken. Of several
processes one works on all batches (`leading`), which it finds in the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coe.errors import CoeError, ConfigError, QueueFull, ShuttingDown, StoreError
from coe.service.batches.ending import End, Errors
from coe.service.batches.journal import opened
from coe.service.batches.leading import Leading
from coe.service.batches.lines import BatchFile, LineRules, check_requests
from coe.service.batches.objects import BatchCall, batch_error, batch_errors
from coe.service.batches.paying import Payer
from coe.service.batches.place import FOLDER, Place, places_in, sweep
from coe.service.batches.settings import BatchSettings
from coe.service.batches.sharing import SharedRun
from coe.service.batches.turns import Turns
from coe.service.errors import InvalidRequest
from coe.service.files.sweeping import sweeping
from coe.service.gateway import Gateway
from coe.store import ApiKey, Store, StoredBatch

_LOG = logging.getLogger("coe.service")
PURPOSE = "batch"
_MOST_ERRORS = 50
_ASK_AGAIN_S = 60.0
_TRY_AGAIN_S = 30.0
_TAKEN_S = 10.0
"""Longest that another process takes to keep a batch's input."""


@dataclass(slots=True, eq=False)
class _Job:
    batch: StoredBatch
    """As it was when this process took it on."""
    place: Place
    work: asyncio.Task[Errors] | None = None
    life: asyncio.Task[None] | None = None
    requests: BatchFile | None = None
    is_cancelled: bool = False
    defect: Errors = ()
    """Ours, as the client is told of it."""


class BatchJobs:
    """Belongs to one event loop. Between `start` and `stop` it works on what is not over."""

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        settings: BatchSettings = BatchSettings(),  # noqa: B008  frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: the store's."""
        self.store = store
        self.settings = settings
        self._gateway = gateway
        self._clock = clock
        self._folder = store.folder / FOLDER
        self._turns = Turns(settings.max_running)
        self._jobs: dict[str, _Job] = {}
        self._is_alone = gateway.seat is None
        self._leading = Leading(self._folder, self._take_over, self._look)
        self._tasks: list[asyncio.Task[None]] = []
        """What goes on beside the batches."""

    async def start(self) -> None:
        """Goes on with what an earlier process left, here or where the lead is. Raises
        `ConfigError`, `StoreError`.
        """
        if self._is_alone:
            await self._take_over()
        else:
            self._tasks.append(asyncio.create_task(self._leading.run()))

    async def stop(self) -> None:
        """Leaves everything as it is on the disk, to be gone on with."""
        await _called_off(self._tasks)
        await _called_off([job.life for job in self._jobs.values() if job.life is not None])
        self._leading.give_up()

    async def submit(self, tenant: str, key: ApiKey | None, call: BatchCall) -> StoredBatch:
        """Takes a batch on. Raises `UnknownFile`, `InvalidRequest`, `QueueFull`, `StoreError`."""
        unfinished = await self.store.batches.unfinished()
        n_unfinished = sum(batch.tenant == tenant for batch in unfinished)
        if n_unfinished >= self.settings.max_unfinished:
            raise QueueFull(f"{n_unfinished} batches are not over yet", _ASK_AGAIN_S)
        file = await self.store.files.get(tenant, call.input_file_id)
        if file.purpose != PURPOSE:
            told = f"the file is of purpose {file.purpose!r}; upload it with purpose {PURPOSE!r}"
            raise InvalidRequest(told, param="input_file_id")
        path = await self.store.files.path(tenant, call.input_file_id)
        batch = await self.store.batches.create(
            tenant,
            call.input_file_id,
            call.endpoint,
            call.window,
            call.metadata,
            call.output_lifetime_s,
        )
        place = Place(self._folder, batch.id)
        try:
            await asyncio.to_thread(place.take, path, "" if key is None else key.id)
        except OSError as error:
            await self.store.batches.move(
                batch.id, "failed", errors=batch_error("input_lost", "the file cannot be kept")
            )
            raise StoreError(f"{path} cannot be kept for a batch: {error}") from None
        if self._is_alone:
            self._begin(batch)
        else:
            self._leading.look_soon()
        return batch

    async def cancel(self, tenant: str, batch_id: str) -> StoredBatch:
        """What runs is cut off; what was answered is kept. Raises `UnknownBatch`, `BatchOver`."""
        await self.store.batches.get(tenant, batch_id)
        batch = await self.store.batches.move(batch_id, "cancelling")
        job = self._jobs.get(batch_id)
        if job is not None:
            _cut_off(job)
        return batch

    async def _take_over(self) -> None:
        """Begins what is not over, and sweeps away what nobody will ask for."""
        try:
            # Before the batches are read: one that is taken on meanwhile is not swept away.
            places = await asyncio.to_thread(places_in, self._folder)
            left = await self.store.batches.unfinished()
            await asyncio.to_thread(sweep, places, {batch.id for batch in left})
        except OSError as error:
            problem = f"cannot be used for batches: {error}"
            raise ConfigError(problem, file=str(self._folder)) from None
        for batch in left:
            self._begin(batch)
        self._tasks.append(asyncio.create_task(sweeping(self.store.files.sweep)))

    async def _look(self) -> None:
        before = set(self._jobs)
        for batch in await self.store.batches.unfinished():
            job = self._jobs.get(batch.id)
            if job is None and batch.id not in before:  # else it has ended just now
                self._begin(batch)
            elif job is not None and batch.state == "cancelling":
                _cut_off(job)

    def _begin(self, batch: StoredBatch) -> None:
        job = self._jobs[batch.id] = _Job(batch, Place(self._folder, batch.id))
        job.is_cancelled = batch.state == "cancelling"
        job.life = asyncio.create_task(self._live(job))

    async def _live(self, job: _Job) -> None:
        try:
            while not await self._is_over(job):
                await asyncio.sleep(_TRY_AGAIN_S)
        finally:
            del self._jobs[job.batch.id]

    async def _is_over(self, job: _Job) -> bool:
        """Whether this process has no more to do with it. False: the disk did not take it now."""
        try:
            if job.is_cancelled:
                await self._end(job, End("cancelled"))
            elif job.defect:
                await self._end(job, End("failed", job.defect))
            else:
                await self._work_to_its_end(job)
        except ShuttingDown:
            return True  # It is gone on with at the next start.
        except (OSError, StoreError) as error:
            _LOG.error("batch %s stands still: %s", job.batch.id, error)
            return False
        except Exception:  # noqa: BLE001 - the last place before the client hears nothing
            _LOG.exception("batch %s has failed", job.batch.id)
            if job.defect:
                return True  # There is no end to be had.
            told = "the gateway failed; its log has the cause under the batch's id"
            job.defect = batch_error("internal_error", told)
            return await self._is_over(job)
        return True

    async def _work_to_its_end(self, job: _Job) -> None:
        work = job.work = asyncio.create_task(self._work(job))
        try:
            await asyncio.wait([work], timeout=max(0.0, job.batch.expires_s - self._clock()))
            is_late = not work.done()
        finally:
            work.cancel()
            await asyncio.wait([work])
        if job.is_cancelled:
            await self._end(job, End("cancelled"))
        elif is_late:
            await self._end(job, End("expired"))
        else:
            errors = work.result()
            await self._end(job, End("failed" if errors else "completed", errors))

    async def _work(self, job: _Job) -> Errors:
        """Answers what is left, when it is its turn. What keeps it from that is returned.

        Raises `ShuttingDown`, `OSError` and `StoreError`.
        """
        place = job.place
        async with self._turns.turn(job.batch.tenant):
            if not await place.is_taken_within(0.0 if self._is_alone else _TAKEN_S):
                return batch_error("input_lost", "the gateway ended before it had the input")
            key = await self._key(place)
            if isinstance(key, CoeError):
                return batch_error("invalid_api_key", str(key))
            batch = await self.store.batches.get(job.batch.tenant, job.batch.id)
            is_new = batch.state == "validating"
            errors = await self._check(job, key, is_new)
            if errors:
                return errors
            if is_new:
                await self.store.batches.move(batch.id, "in_progress")
            await self._answer(job, key)
        return ()

    async def _key(self, place: Place) -> ApiKey | CoeError | None:
        """Whose budget it is; an error if that key opens the gateway no more."""
        key_id = await asyncio.to_thread(lambda: place.key_id)
        if not key_id:
            return None
        found = [key for key in await self.store.keys.all() if key.id == key_id]
        if not found or not found[0].is_usable(self._clock()):
            return ConfigError("the API key of this batch has expired or was revoked")
        return found[0]

    async def _check(self, job: _Job, key: ApiKey | None, is_new: bool) -> Errors:
        composition, batch = self._gateway.composition, job.batch
        routed_model = self._gateway.settings.model_name
        allowed = None if key is None else key.limits.experts
        known = [id_ for id_ in composition.pool.ids if allowed is None or id_ in allowed]
        rules = LineRules(
            # What has been begun is gone on with; an expert that has gone is told line by line.
            (routed_model, *known) if is_new else None,
            (batch.endpoint,),
            composition.passing if is_new else None,
            self._gateway.settings.limits,
            batch.tenant,
            None if allowed is None else tuple(known),
            None if key is None else key.limits.max_priority,
        )
        requests, wrong = await asyncio.to_thread(
            check_requests, job.place.input, rules, _MOST_ERRORS, self.settings.max_requests
        )
        if not wrong and not len(requests):
            return batch_error("empty_file", "the file holds no request")
        if not wrong:
            job.requests = requests
        return batch_errors(wrong)

    async def _end(self, job: _Job, end: End) -> None:
        limits, lifetime_s = self._gateway.settings.limits, job.batch.output_lifetime_s
        if lifetime_s is None:
            lifetime_s = self.settings.output_lifetime_s
        await end.reach(self.store, job.batch, job.place, job.requests, (limits, lifetime_s))

    async def _answer(self, job: _Job, key: ApiKey | None) -> None:
        requests, batch = job.requests, job.batch
        assert requests is not None  # they have been checked
        payer = Payer(self._gateway, self.store, batch.tenant, key)
        async with opened(job.place.journal()) as journal:

            def tell() -> None:
                n_failed = len(journal.failed)
                n_completed = len(journal.done) - n_failed
                self.store.batches.count(batch.id, len(requests), n_completed, n_failed)

            tell()
            in_flight = self.settings.in_flight
            await SharedRun(self._gateway, requests, journal, payer, in_flight, tell).answer()


def _cut_off(job: _Job) -> None:
    if not job.is_cancelled:
        job.is_cancelled = True
        if job.work is not None:
            job.work.cancel()


async def _called_off(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
