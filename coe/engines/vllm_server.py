"""One incarnation of a vLLM server: its process, its controls, its sleep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import aiohttp

from coe.engines.child_log import ChildLog
from coe.engines.claim import Claim, file_stem
from coe.engines.family import resident_gib
from coe.engines.openai import OpenAIEngine
from coe.engines.process import LOOPBACK, ChildProcess, Order, choose_port
from coe.engines.vllm_command import command_line, environment, spec_of
from coe.engines.vllm_control import Control, HttpControl
from coe.engines.vllm_diagnosis import diagnosis, first_error, freed_gib, is_port_taken
from coe.engines.vllm_memory import Held, MemoryProbe
from coe.engines.vllm_sleep import Bed, Canary
from coe.errors import EngineError, StartupError
from coe.experts import Expert, OpenAISpec, VllmSpec

_CANARY_S = 120.0
_CONNECT_S = 5.0
_PORT_TRIES = 3
_STOP_ON_FAILURE_S = 5.0


class Child(Protocol):
    """The part of a process that a server needs."""

    @property
    def log(self) -> ChildLog: ...
    def pids(self) -> set[int]: ...
    async def exited(self) -> str: ...
    def obituary(self, ending: str) -> str: ...
    async def end(self, grace_s: float) -> bool: ...


class VllmServer:
    """A server that is up. Meets `vllm_life.Server`."""

    def __init__(
        self,
        expert: Expert,
        child: Child,
        control: Control,
        memory: tuple[MemoryProbe, Sequence[str]],
        canary: Canary,
    ) -> None:
        """`memory`: what measures it, and the devices to measure it on."""
        spec = spec_of(expert)
        self.control = control
        self.adapters: set[str] = set()
        """Names of the LoRA adapters that are loaded."""
        self._expert = expert
        self._child = child
        self._probe, self._devices = memory
        self._level = spec.sleep_level
        self._bed = Bed(expert.id, control, spec.sleep_level, canary, self._held)

    async def exited(self) -> str:
        return await self._child.exited()

    def obituary(self, ending: str) -> str:
        return self._child.obituary(ending)

    async def is_healthy(self) -> bool:
        return await self.control.is_healthy()

    async def fall_asleep(self, timeout_s: float) -> float | None:
        since = self._child.log.n_lines
        residue_gib = await self._bed.fall_asleep(timeout_s)
        return self._unfreed(since) if residue_gib is None else residue_gib

    async def wake(self, timeout_s: float) -> None:
        await self._bed.wake(timeout_s)
        if self._level == 2:
            # What an adapter had on the device was discarded with the weights.
            for name in self.adapters:
                await self.control.unload_adapter(name, timeout_s)
            self.adapters.clear()

    async def end(self, grace_s: float) -> bool:
        return await self._child.end(grace_s)

    async def _held(self) -> Held:
        # Reading the page tables of a large process takes a while.
        pids = await asyncio.to_thread(self._child.pids)
        host_gib = await asyncio.to_thread(resident_gib, pids)
        device_gib = await self._probe.held_gib(pids, self._devices, self.control)
        return Held(device_gib, host_gib)

    def _unfreed(self, since: int) -> float | None:
        """What is left by vLLM's own account, where nothing from outside could tell."""
        freed = freed_gib(self._child.log.lines(since))
        gib = self._expert.footprint.gib
        if freed is None or gib <= 0.0:
            return None
        left = max(0.0, gib - freed)
        if left > gib / 2:
            raise EngineError(
                self._expert.id, f"its sleep freed {freed:.1f} of its {gib:.1f} GiB, by its log"
            )
        return left


class Remote:
    """How a server is reached: its controls, and engines that stream from it under its names."""

    def __init__(self, expert: Expert, spec: VllmSpec, address: int | Path) -> None:
        is_socket = isinstance(address, Path)
        self._url = "http://localhost" if is_socket else f"http://{LOOPBACK}:{address}"
        self._address = address
        self._timeout_s = spec.timeout_s
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.control = HttpControl(expert.id, self._session, self._url)
        self.engine = self._engine(expert)
        self._adapters: dict[str, OpenAIEngine] = {}

    def engine_for(self, adapter: Expert) -> OpenAIEngine:
        """The engine that asks for an adapter by its expert's id."""
        if adapter.id not in self._adapters:
            self._adapters[adapter.id] = self._engine(adapter)
        return self._adapters[adapter.id]

    async def close(self) -> None:
        """Ends the streams under way and lets go of the connections. Idempotent."""
        for engine in (self.engine, *self._adapters.values()):
            await engine.stop(_CONNECT_S)
        await self._session.close()
        if isinstance(self._address, Path):
            self._address.unlink(missing_ok=True)

    def _engine(self, expert: Expert) -> OpenAIEngine:
        spec = OpenAISpec(f"{self._url}/v1", expert.id, timeout_s=self._timeout_s)
        return OpenAIEngine(replace(expert, engine=spec), self._open)

    def _open(self, spec: OpenAISpec) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=spec.timeout_s
            ),
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _connector(self) -> aiohttp.BaseConnector:
        # Never waits for a free connection: admission is decided elsewhere.
        if isinstance(self._address, Path):
            return aiohttp.UnixConnector(str(self._address), limit=0)
        return aiohttp.TCPConnector(limit=0)


class RunningVllm(VllmServer):
    """A real process behind HTTP. `end` closes the connections too."""

    def __init__(
        self,
        expert: Expert,
        child: ChildProcess,
        remote: Remote,
        memory: tuple[MemoryProbe, Sequence[str]],
        canary: Canary,
    ) -> None:
        super().__init__(expert, child, remote.control, memory, canary)
        self.remote = remote
        self.token = child.token
        """Which processes are its own; see `coe.engines.family`."""
        self.pid = child.pid

    def pids(self) -> set[int]:
        """Those of the server and of its workers."""
        return self._child.pids()

    async def end(self, grace_s: float) -> bool:
        await self.remote.close()
        return await super().end(grace_s)


@dataclass(slots=True)
class Launcher:
    """Starts servers for one expert, one at a time, in one state folder."""

    expert: Expert
    folder: Path
    probe: MemoryProbe
    patience_s: float
    claim: Claim = field(init=False)
    spec: VllmSpec = field(init=False)

    def __post_init__(self) -> None:
        self.claim = Claim(self.expert.id, self.folder)
        self.spec = spec_of(self.expert)

    async def __call__(self, devices: Sequence[str]) -> RunningVllm:
        """A server that has answered. Raises `StartupError`; nothing of it is left then."""
        for attempt in range(_PORT_TRIES):
            address = self._address()
            try:
                return await self._launch(devices, address)
            except PortTaken as taken:
                # Between our look and its bind somebody else took a port that we chose.
                if self.spec.port or attempt + 1 == _PORT_TRIES:
                    raise taken.error from None
        raise AssertionError("unreachable")

    async def _launch(self, devices: Sequence[str], address: int | Path) -> RunningVllm:
        expert_id = self.expert.id
        env = environment(self.spec, os.environ, devices)
        order = Order(expert_id, command_line(expert_id, self.spec, address), env, self.folder)
        child = ChildProcess(order, self.claim)
        remote = Remote(self.expert, self.spec, address)
        canary = Canary(self.spec.canary_tokens)
        try:
            async with asyncio.timeout(self.patience_s):
                await child.start()
                await child.ready(remote.control.is_up)
                await canary.learn(remote.control, _CANARY_S)
        except BaseException as error:
            await remote.close()
            await child.end(_STOP_ON_FAILURE_S)
            if isinstance(error, EngineError | TimeoutError):
                raise self._explained(error, child.log) from None
            raise
        return RunningVllm(self.expert, child, remote, (self.probe, devices), canary)

    def _address(self) -> int | Path:
        if not self.spec.uds:
            return choose_port(self.expert.id, self.spec.port)
        path = self.folder.absolute() / f"{file_stem(self.expert.id)}.sock"
        if len(os.fsencode(path)) > 100:
            raise StartupError(
                self.expert.id,
                f"the path of its socket is too long for a socket: {path}; use a port, or a "
                "state folder nearer to the root",
            )
        path.unlink(missing_ok=True)
        return path

    def _explained(self, error: EngineError | TimeoutError, log: ChildLog) -> StartupError:
        lines = log.lines()
        why = diagnosis(lines)
        if isinstance(error, TimeoutError):
            said = (
                f"not ready within {self.patience_s:g} s; raise startup_timeout_s if it needs "
                f"longer; the last lines of its log:\n{log.tail()}"
            )
        else:
            said = str(error).removeprefix(f"expert {self.expert.id!r}: ")
        began = first_error(lines)
        if began and began not in said:
            said = f"it began with {began}\n{said}"
        explained = StartupError(self.expert.id, f"{why}\n{said}" if why else said)
        if is_port_taken(lines):
            raise PortTaken(explained)
        return explained


class PortTaken(Exception):
    """The start failed because its port was taken. `error` is what to raise if it stays so."""

    def __init__(self, error: StartupError) -> None:
        self.error = error
        super().__init__(str(error))
