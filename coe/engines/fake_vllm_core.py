"""The behaviour of a vLLM server without HTTP or a process: load, generate, sleep, wake, break.

What real servers do wrong when they are used wrongly, this one does always: level 2 without
reloading in the right order answers gibberish, a prefix cache from before a sleep answers
wrongly. What they do wrong of themselves is a `Fault`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from coe.engines.fake_device import Device, OutOfDeviceMemory
from coe.engines.fake_faults import Fault, Faults
from coe.engines.playback import count_pieces, pieces, play
from coe.engines.room import answer_room
from coe.errors import UpstreamError
from coe.experts import Expert
from coe.types import Delta, GenerationRequest

_KEPT_SHARE = 0.7
"""Of what a sleep should free, under `partial-free`."""
_PREFIX_CHARS = 64
_SLOW_HEALTH_S = 30.0

Pause = Callable[[float], Awaitable[None]]


class Crashed(Exception):
    """The process is dead, or dies now."""


@dataclass(frozen=True, slots=True)
class FakeCosts:
    """Seconds."""

    load_s: float = 0.5
    sleep_s: float = 0.05
    wake_s: float = 0.1
    reload_s: float = 0.2
    prefill_tokens_per_s: float = 20_000.0
    step_s: float = 0.005
    """One decode step of one request alone."""
    step_slope_s: float = 0.0002
    """What each further request of a batch adds to a step."""


@dataclass(frozen=True, slots=True)
class FakeSize:
    """GiB on the device."""

    weights_gib: float = 1.0
    kv_gib: float = 1.0
    overhead_gib: float = 0.1
    """What no sleep frees."""


class FakeVllm:
    """One server. Waits by `pause` only. Raises `Crashed` once it is dead."""

    def __init__(
        self,
        expert: Expert,
        answer: Callable[[GenerationRequest], str],
        device: Device,
        size: FakeSize | None = None,
        costs: FakeCosts | None = None,
        faults: Faults | None = None,
    ) -> None:
        """`expert` gives the name and the limits; its engine is not looked at."""
        self.expert = expert
        self.size = size or FakeSize()
        self.costs = costs or FakeCosts()
        self.faults = faults or Faults()
        self.pause: Pause = asyncio.sleep
        self.owner = expert.id
        """Whom the device counts its memory for."""
        self.level: int | None = None
        """Of the sleep it is in; None: awake."""
        self.n_running = 0
        self.n_misdirected = 0
        """Requests that came while it slept."""
        self.host_gib = 0.0
        self.death = asyncio.Event()
        self.on_death: Callable[[], None] = lambda: None
        self.adapters: dict[str, str] = {}
        self.n_prefix_hits = 0
        self.n_answered = 0
        self.is_paused = False
        self._n_aborts = 0
        self._answer = answer
        self._device = device
        self._weights_gib = 0.0
        self._kv_gib = 0.0
        self._leaked_gib = 0.0
        self._is_garbage = False
        self._is_kv_early = False
        self._epoch = 0
        self._prefixes: dict[str, int] = {}
        self._changed = asyncio.Event()

    @property
    def device_gib(self) -> float:
        return self.size.overhead_gib + self._weights_gib + self._kv_gib + self._leaked_gib

    @property
    def is_sleeping(self) -> bool:
        return self.level is not None

    async def load(self) -> None:
        """Raises `OutOfDeviceMemory`."""
        if self.faults.take(Fault.CRASH_AT_START):
            self.crash()
        if self.faults.take(Fault.HANG_AT_START):
            await self._hang()
        await self.pause(self.costs.load_s)
        self._weights_gib, self._kv_gib = self.size.weights_gib, self.size.kv_gib
        self._account()

    def crash(self) -> NoReturn:
        """Its memory is free from now on."""
        if not self.death.is_set():
            self.death.set()
            self._device.hold(self.owner, 0.0)
            self._changed.set()
            self.on_death()
        raise Crashed(self.expert.id)

    async def sleep(self, level: int, mode: str = "abort") -> None:
        """`mode` wait lets those who run finish, abort cuts them off. Raises `UpstreamError` for
        what the server answers 500 to.
        """
        self._check()
        if self.faults.take(Fault.CRASH_ON_SLEEP):
            self.crash()
        if self.faults.take(Fault.SLEEP_HANG):
            await self._hang()
        if self.faults.take(Fault.SLEEP_ERROR):
            raise UpstreamError(self.expert.id, "sleep failed", 500)
        if self.faults.take(Fault.SLEEP_LIES):
            return
        self.level = level
        self._n_aborts += mode == "abort"
        await self._until(lambda: self.n_running == 0)
        await self.pause(self.costs.sleep_s)
        self._check()
        if level == 1:
            self.host_gib += self.size.weights_gib
        if not self.faults.take(Fault.HELD):
            kept = _KEPT_SHARE if self.faults.take(Fault.PARTIAL_FREE) else 0.0
            self._leaked_gib = kept * (self._weights_gib + self._kv_gib)
            self._weights_gib = self._kv_gib = 0.0
        self._account()

    async def wake_up(self, tags: Sequence[str]) -> bool:
        """Whether it is wholly awake. Raises `OutOfDeviceMemory`."""
        self._check()
        if self.faults.take(Fault.CRASH_ON_WAKE):
            self.crash()
        if self.faults.take(Fault.HANG_ON_WAKE):
            await self._hang()
        if self.faults.take(Fault.WAKE_OOM):
            self._leaked_gib += self.size.weights_gib / 2
            self._account()
            raise OutOfDeviceMemory("CUDA out of memory.")
        await self.pause(self.costs.wake_s if not tags or "weights" in tags else 0.0)
        self._check()
        if self.level is None:
            return True
        if not tags or "weights" in tags:
            self._wake_weights(self.level)
        if not tags or "kv_cache" in tags:
            self._is_kv_early = self._is_kv_early or (self.level == 2 and self._is_garbage)
            self._leaked_gib = 0.0
            self._kv_gib = self.size.kv_gib
            self._account()
        return self._resume()

    async def reload_weights(self) -> None:
        self._check()
        await self.pause(self.costs.reload_s)
        self._check()
        if not self.faults.take(Fault.RELOAD_LIES) and not self._is_kv_early:
            self._is_garbage = False

    def reset_prefix_cache(self) -> bool:
        self._check()
        if self.faults.take(Fault.RESET_REFUSED):
            return False
        if not self.faults.take(Fault.RESET_LIES):
            self._prefixes.clear()
        return True

    def hold_back(self, is_paused: bool) -> None:
        """Pauses and resumes: who comes while it is paused waits."""
        self._check()
        self.is_paused = is_paused
        self._changed.set()

    async def health(self) -> None:
        self._check()
        if self.faults.take(Fault.SLOW_HEALTH):
            await self.pause(_SLOW_HEALTH_S)

    async def stream(self, request: GenerationRequest, adapter: str = "") -> AsyncIterator[Delta]:
        """Waits while it sleeps, as the real one does."""
        self._check()
        if self.faults.take(Fault.OVERLOAD):
            raise UpstreamError(self.expert.id, "too many requests are queued", 503)
        self.n_misdirected += self.is_sleeping
        await self._until(lambda: not self.is_sleeping and not self.is_paused)
        prompt_tokens = count_pieces(request.messages)
        room = answer_room(self.expert, prompt_tokens, request.params)
        params = replace(request.params, max_tokens=room)
        text = self._text(request, adapter)
        n_aborts = self._n_aborts

        async def step(index: int) -> None:
            await self._step(index)
            if self._n_aborts != n_aborts:
                raise UpstreamError(self.expert.id, "aborted: the server went to sleep")

        self.n_running += 1
        try:
            await self.pause(prompt_tokens / self.costs.prefill_tokens_per_s)
            async for delta in play(pieces(text), params, prompt_tokens, step):
                yield delta
            self.n_answered += 1
        finally:
            self.n_running -= 1
            self._changed.set()

    async def _step(self, index: int) -> None:
        self._check()
        if index == 1:
            if self.faults.take(Fault.CRASH_MID_STREAM):
                self.crash()
            if self.faults.take(Fault.HANG_MID_STREAM):
                await self._hang()
        await self.pause(self.costs.step_s + self.costs.step_slope_s * self.n_running)
        self._check()

    def _text(self, request: GenerationRequest, adapter: str) -> str:
        text = (f"{adapter}: " if adapter else "") + self._answer(request)
        prefix = "\n".join(message.content for message in request.messages)[:_PREFIX_CHARS]
        cached = self._prefixes.get(prefix)
        self.n_prefix_hits += cached is not None
        if cached is None:
            self._prefixes[prefix] = self._epoch
        is_wrong = self._is_garbage or (cached is not None and cached != self._epoch)
        return text[::-1] if is_wrong else text

    def _wake_weights(self, level: int) -> None:
        self._leaked_gib = 0.0
        self._weights_gib = self.size.weights_gib
        self._account()
        if level == 2 or self.faults.take(Fault.WRONG_WEIGHTS):
            self._is_garbage = True
            self._is_kv_early = False
        if level == 1 and not self.faults.take(Fault.HOST_LEAK):
            self.host_gib = max(0.0, self.host_gib - self.size.weights_gib)

    def _resume(self) -> bool:
        if self._weights_gib and self._kv_gib:
            if self.faults.take(Fault.WAKE_PARTIAL):
                return False
            self.level = None
            self._epoch += 1
            self._changed.set()
        return self.level is None

    def _account(self) -> None:
        try:
            self._device.hold(self.owner, self.device_gib)
        except OutOfDeviceMemory:
            # What was mapped before it ran out stays mapped; the rest never was.
            self._weights_gib = self._kv_gib = 0.0
            raise

    def _check(self) -> None:
        if self.death.is_set():
            raise Crashed(self.expert.id)

    async def _hang(self) -> None:
        await self._until(lambda: False)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()
            self._check()
