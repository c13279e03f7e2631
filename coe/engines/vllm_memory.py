"""How much memory the processes of one server hold, measured from outside the server."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from coe.engines.vllm_control import Control
from coe.errors import EngineError

_LOG = logging.getLogger(__name__)
_SMI_S = 10.0
DEVICE_METRIC = "coe:device_memory_held_gib"
"""What a server may tell of itself where nothing else does; the fake one does."""


@dataclass(frozen=True, slots=True)
class Held:
    """GiB that one server's processes hold; None where it cannot be told."""

    device_gib: float | None = None
    """On the device of which they hold most."""
    host_gib: float | None = None


class MemoryProbe(Protocol):
    """Measures device memory. Raises nothing."""

    async def held_gib(
        self, pids: set[int], devices: Sequence[str], control: Control
    ) -> float | None:
        """GiB on the device of which they hold most; None: it cannot be told."""
        ...


class NvidiaSmi:
    """What the driver says of each process.

    In a container that hides process ids the driver's are not ours: then it cannot be told.
    """

    async def held_gib(
        self, pids: set[int], devices: Sequence[str], control: Control
    ) -> float | None:
        table = await self._table()
        if table is None:
            return None
        totals: dict[str, float] = {}
        for pid, gpu, mib in table:
            if pid in pids:
                totals[gpu] = totals.get(gpu, 0.0) + mib / 1024
        return max(totals.values(), default=None)

    async def _table(self) -> list[tuple[int, str, float]] | None:
        try:
            process = await asyncio.create_subprocess_exec(
                "nvidia-smi",
                "--query-compute-apps=pid,gpu_uuid,used_memory",
                "--format=csv,noheader,nounits",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            return None
        try:
            async with asyncio.timeout(_SMI_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return None
        return smi_table(output.decode()) if process.returncode == 0 else None


class Metrics:
    """What the server's own metrics say, where it has such a metric."""

    async def held_gib(
        self, pids: set[int], devices: Sequence[str], control: Control
    ) -> float | None:
        try:
            return (await control.metrics()).get(DEVICE_METRIC)
        except EngineError as error:
            _LOG.warning("%s", error)
            return None


class FirstOf:
    """The first of several probes that can tell."""

    def __init__(self, *probes: MemoryProbe) -> None:
        self._probes = probes

    async def held_gib(
        self, pids: set[int], devices: Sequence[str], control: Control
    ) -> float | None:
        for probe in self._probes:
            held = await probe.held_gib(pids, devices, control)
            if held is not None:
                return held
        return None


def default_probe() -> MemoryProbe:
    """The driver if there is one, then the server's metrics."""
    return FirstOf(NvidiaSmi(), Metrics()) if shutil.which("nvidia-smi") else Metrics()


def smi_table(text: str) -> list[tuple[int, str, float]]:
    """Process id, device and MiB of every line that has all three."""
    rows = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        try:
            rows.append((int(parts[0]), parts[1], float(parts[2])))
        except (IndexError, ValueError):
            # "[N/A]" and "[Insufficient Permissions]" stand where a number should.
            continue
    return rows
