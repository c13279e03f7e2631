"""A fake vLLM inside this process: no HTTP, no child, no seconds. For model-based tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from coe.engines.base import EngineState, closing_stream, collect
from coe.engines.child_log import ChildLog
from coe.engines.fake_device import OutOfDeviceMemory
from coe.engines.fake_vllm_core import Crashed, FakeVllm
from coe.engines.vllm_control import Control
from coe.engines.vllm_life import Life
from coe.engines.vllm_memory import Held
from coe.engines.vllm_phase import STATES
from coe.engines.vllm_sleep import Bed, Canary
from coe.errors import StartupError, UpstreamError, UpstreamTimeout
from coe.experts import Expert, VllmSpec
from coe.types import Delta, GenerationRequest, Message, SamplingParams

_CONTROL_S = 5.0
T = TypeVar("T")


class InsideControl:
    """The controls of a core, failing as those over HTTP would."""

    def __init__(self, core: FakeVllm, health_s: float = _CONTROL_S) -> None:
        self._core = core
        self._health_s = health_s

    async def is_healthy(self) -> bool:
        try:
            await self._answered(self._core.health(), self._health_s)
        except (UpstreamError, UpstreamTimeout):
            return False
        return True

    async def sleep(self, level: int, timeout_s: float) -> None:
        await self._answered(self._core.sleep(level, "wait"), timeout_s)

    async def wake_up(self, tags: Sequence[str], timeout_s: float) -> bool:
        return await self._answered(self._core.wake_up(tags), timeout_s)

    async def is_sleeping(self) -> bool:
        return self._core.is_sleeping

    async def reload_weights(self, timeout_s: float) -> None:
        await self._answered(self._core.reload_weights(), timeout_s)

    async def reset_prefix_cache(self) -> bool:
        async def reset() -> bool:
            return self._core.reset_prefix_cache()

        return await self._answered(reset(), _CONTROL_S)

    async def generate(self, prompt: str, max_tokens: int, timeout_s: float) -> str:
        request = GenerationRequest(
            (Message("user", prompt),), SamplingParams(max_tokens=max_tokens)
        )
        whole = collect(self._core.expert.id, self._core.stream(request))
        return (await self._answered(whole, timeout_s)).text

    async def metrics(self) -> Mapping[str, float]:
        return {}

    async def load_adapter(self, name: str, path: str, timeout_s: float) -> None:
        self._core.adapters[name] = path

    async def unload_adapter(self, name: str, timeout_s: float) -> None:
        self._core.adapters.pop(name, None)

    async def _answered(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        expert_id = self._core.expert.id
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except TimeoutError:
            raise UpstreamTimeout(expert_id, timeout_s) from None
        except Crashed:
            raise UpstreamError(expert_id, "its server did not answer: connection lost") from None
        except OutOfDeviceMemory as error:
            raise UpstreamError(expert_id, f"answered with status 500: {error}", 500) from None


class InsideServer:
    """A core as `vllm_life.Server`. It dies by `die`, or by a fault."""

    def __init__(
        self, core: FakeVllm, level: int, canary: Canary, health_s: float = _CONTROL_S
    ) -> None:
        self.core = core
        self.control: Control = InsideControl(core, health_s)
        self.log = ChildLog(None)
        self._bed = Bed(core.expert.id, self.control, level, canary, self._held)

    def die(self) -> None:
        """As if it had been killed."""
        try:
            self.core.crash()
        except Crashed:
            return

    async def exited(self) -> str:
        await self.core.death.wait()
        return "was killed by SIGKILL"

    def obituary(self, ending: str) -> str:
        return f"its process {ending}"

    async def is_healthy(self) -> bool:
        return await self.control.is_healthy()

    async def fall_asleep(self, timeout_s: float) -> float | None:
        return await self._bed.fall_asleep(timeout_s)

    async def wake(self, timeout_s: float) -> None:
        await self._bed.wake(timeout_s)

    async def end(self, grace_s: float) -> bool:
        self.die()
        return True

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Raises `UpstreamError` where the process dies."""
        try:
            async with closing_stream(self.core.stream(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except Crashed:
            raise UpstreamError(self.core.expert.id, "the connection was cut") from None

    async def _held(self) -> Held:
        return Held(self.core.device_gib, self.core.host_gib)


class InsideLauncher:
    """Launches a new core for every start. `cores` keeps them all."""

    def __init__(
        self, expert: Expert, make_core: Callable[[], FakeVllm], health_s: float = _CONTROL_S
    ) -> None:
        assert isinstance(expert.engine, VllmSpec)
        self._expert = expert
        self._spec = expert.engine
        self._make_core = make_core
        self._health_s = health_s
        self.cores: list[FakeVllm] = []
        self.latest: InsideServer | None = None

    async def __call__(self, devices: Sequence[str]) -> InsideServer:
        core = self._make_core()
        self.cores.append(core)
        canary = Canary(self._spec.canary_tokens)
        server = InsideServer(core, self._spec.sleep_level, canary, self._health_s)
        try:
            await core.load()
            await canary.learn(server.control, _CONTROL_S)
        except (UpstreamError, UpstreamTimeout):
            server.die()
            raise
        except (OutOfDeviceMemory, Crashed) as error:
            server.die()
            raise StartupError(self._expert.id, f"did not start: {error}") from None
        except BaseException:
            server.die()
            raise
        self.latest = server
        return server


class InsideEngine:
    """An engine on cores in this process, alive as a `VllmEngine` is."""

    def __init__(
        self, expert: Expert, make_core: Callable[[], FakeVllm], patience_s: float = 60.0
    ) -> None:
        self.launcher = InsideLauncher(expert, make_core)
        self.life = Life(expert.id, self.launcher, patience_s)
        self.expert_id = expert.id

    @property
    def state(self) -> EngineState:
        return STATES.get(self.life.phase, EngineState.STOPPED)

    def on_death(self, tell: Callable[[], None]) -> None:
        self.life.on_death(tell)

    def place(self, devices: Sequence[str]) -> None:
        self.life.place(devices)

    async def ensure_ready(self, timeout_s: float) -> None:
        await self.life.ensure_awake(timeout_s)

    async def sleep(self, timeout_s: float) -> float | None:
        return await self.life.sleep(timeout_s)

    async def stop(self, timeout_s: float) -> None:
        await self.life.end(timeout_s)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        async with (
            self.life.guest() as server,
            closing_stream(server.stream(request)) as deltas,
        ):
            async for delta in deltas:
                yield delta
