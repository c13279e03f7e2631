"""Small experts in this process: transformers on one worker thread, requests batched.

Everything here happens on the event loop, which owns the queues; the thread only loads,
frees and takes one `Batch.step` at a time, so that local experts take turns step by step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path

from coe.engines.base import EngineState
from coe.engines.generation import Batch, Row
from coe.engines.loading import LoadedModel, is_model_folder, load_model
from coe.engines.local_memory import LocalMemory
from coe.engines.weights import weights_bytes
from coe.errors import (
    CoeError,
    ConfigError,
    EngineError,
    StartupError,
    UpstreamError,
    install_hint,
)
from coe.experts import Expert, LocalSpec
from coe.types import Delta, GenerationRequest


class LocalEngine:
    """A Hugging Face model directory, generating under a shared `LocalMemory`.

    Greedy text does not depend on which requests it shares a batch with. An expert is busy,
    and safe from eviction, while it generates, however slowly its streams are read.
    """

    def __init__(
        self, expert: Expert, memory: LocalMemory, startup_timeout_s: float | None = None
    ) -> None:
        """`startup_timeout_s` bounds how long a stream waits to be let in; None is for ever."""
        if not isinstance(expert.engine, LocalSpec):
            raise ConfigError(f"expert {expert.id!r} is not of kind 'local'")
        self._expert = expert
        self._spec = expert.engine
        self._memory = memory
        self._startup_timeout_s = startup_timeout_s
        self._state = EngineState.STOPPED
        self._model: LoadedModel | None = None
        self._waiting: deque[Row] = deque()
        self._outlets: dict[Row, asyncio.Queue[Delta | CoeError]] = {}
        self._generation: asyncio.Task[None] | None = None

    @property
    def expert_id(self) -> str:
        return self._expert.id

    @property
    def state(self) -> EngineState:
        return self._state

    async def ensure_ready(self, timeout_s: float) -> None:
        await self._hold(timeout_s)
        self._memory.release(self)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        await self._hold(self._startup_timeout_s)
        row = Row(request)
        outlet: asyncio.Queue[Delta | CoeError] = asyncio.Queue()
        self._outlets[row] = outlet
        self._waiting.append(row)
        if self._generation is None:
            self._generation = asyncio.create_task(self._generate())
        try:
            while True:
                item = await outlet.get()
                if isinstance(item, CoeError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            row.is_cancelled = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[LoadedModel, Executor]]:
        """The loaded model and the thread that may use it. It stays loaded while the block runs."""
        await self._hold(self._startup_timeout_s)
        try:
            assert self._model is not None, "held experts are loaded"
            yield self._model, self._memory.worker
        finally:
            self._memory.release(self)

    async def stop(self, timeout_s: float) -> None:
        """Streams under way end with an `UpstreamError`; raises `EngineError` when late."""
        for row, outlet in self._outlets.items():
            row.is_cancelled = True
            outlet.put_nowait(UpstreamError(self.expert_id, "was stopped while it answered"))
        try:
            async with asyncio.timeout(timeout_s):
                await self._memory.vacate(self)
        except TimeoutError:
            raise EngineError(self.expert_id, f"still busy after {timeout_s:g} s") from None
        self._state = EngineState.STOPPED

    def size_bytes(self) -> int:
        try:
            if not is_model_folder(self._spec.path):
                raise ValueError(f"{self._spec.path} is no model folder: it has no config.json")
            return weights_bytes(Path(self._spec.path), self._spec.dtype)
        except (OSError, ValueError) as error:
            self._state = EngineState.FAILED
            raise StartupError(self.expert_id, str(error)) from None

    async def load(self) -> None:
        self._state = EngineState.LOADING
        loop = asyncio.get_running_loop()
        try:
            self._model = await loop.run_in_executor(
                self._memory.worker, load_model, self._expert, self._spec, self._memory.threads
            )
        except ImportError as error:
            self._state = EngineState.FAILED
            raise StartupError(
                self.expert_id,
                f"local experts need torch and transformers ({error}); {install_hint('local')}",
            ) from None
        except Exception as error:
            # transformers raises whatever its parts raise; all of it means one thing here.
            self._state = EngineState.FAILED
            raise StartupError(
                self.expert_id, f"{self._spec.path} cannot be loaded: {error}"
            ) from error
        self._state = EngineState.READY

    async def unload(self) -> None:
        self._model = None
        loop = asyncio.get_running_loop()
        freed = loop.run_in_executor(self._memory.worker, free_unreferenced)
        try:
            # Whoever gives up waiting must not call it off: the next load relies on that room,
            # and comes after it on the one worker.
            await asyncio.shield(freed)
        finally:
            self._state = EngineState.STOPPED

    async def _hold(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._memory.hold(self)
        except TimeoutError:
            raise StartupError(
                self.expert_id,
                f"not ready within {timeout_s:g} s; raise startup_timeout_s, or raise "
                "local_memory_gib if it waited for busy experts to leave",
            ) from None

    async def _generate(self) -> None:
        """Steps a batch until nobody waits and nothing generates."""
        assert self._model is not None, "held experts are loaded"
        loop = asyncio.get_running_loop()
        batch = Batch(self._model)
        if len(self._waiting) < self._model.max_batch:
            await asyncio.sleep(self._spec.batch_wait_s)
        while self._waiting or batch.rows:
            joining = self._next_rows(self._model.max_batch - len(batch.rows))
            # A step that fails may have let go of rows, and then nobody else knows of them.
            taking_part = [*batch.rows, *joining]
            try:
                emissions = await loop.run_in_executor(self._memory.worker, batch.step, joining)
            except Exception as error:  # noqa: BLE001 - torch raises what it likes
                self._fail(taking_part, error)
                batch = Batch(self._model)
                continue
            for row, item in emissions:
                self._deliver(row, item)
        self._generation = None

    def _next_rows(self, room: int) -> list[Row]:
        rows: list[Row] = []
        while self._waiting and len(rows) < room:
            row = self._waiting.popleft()
            if row.is_cancelled:
                self._dismiss(row)
            else:
                rows.append(row)
        return rows

    def _deliver(self, row: Row, item: Delta | CoeError | None) -> None:
        if item is not None:
            self._outlets[row].put_nowait(item)
        if not isinstance(item, Delta) or item.finish_reason is not None:
            self._dismiss(row)

    def _fail(self, rows: list[Row], error: Exception) -> None:
        for row in rows:
            self._deliver(row, UpstreamError(self.expert_id, f"generation failed: {error}"))

    def _dismiss(self, row: Row) -> None:
        del self._outlets[row]
        self._memory.release(self)


def free_unreferenced() -> None:
    """Gives the memory of models that nothing refers to back to the machine.

    Models are full of reference cycles, so forgetting one is not enough.
    """
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
