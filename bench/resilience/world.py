"""The world of a scene: a gateway in its own process before experts that can be made to fail."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.gateway.processes import GATEWAY_CORE, OTHER_CORE, Server, free_port, serving
from bench.resilience.wire import Wire
from bench.serving import ROOT

_START_S = 60.0
_REFUSED = re.compile(r'^coe_admission_refusals_total\{reason="(\w+)"\} (\S+)', re.MULTILINE)


@dataclass(slots=True)
class World:
    """Experts are named after the letters of the alphabet; `a` is the one that fails."""

    url: str
    wire: Wire
    """To the gateway."""
    http: aiohttp.ClientSession
    """To the experts."""
    config: Path
    gateway: Server
    experts: Mapping[str, str]
    """Expert → address, without `/v1`."""
    servers: Mapping[str, Server] = field(default_factory=dict)

    async def fail(self, way: str, expert: str = "a") -> None:
        async with self.http.post(f"{self.experts[expert]}/fail/{way}") as response:
            response.raise_for_status()

    async def chunks(self, n: int, expert: str = "a") -> None:
        """Its streams have so many chunks from now on."""
        async with self.http.post(f"{self.experts[expert]}/chunks/{n}") as response:
            response.raise_for_status()

    async def until_answering(self, n: int, experts: str = "a") -> None:
        """Returns once so many are being answered, all in all. Raises `TimeoutError`."""
        async with asyncio.timeout(_START_S):
            while True:
                counts = [await self.counts(letter) for letter in experts]
                if sum(count.get("answering", 0) for count in counts) >= n:
                    return
                await asyncio.sleep(0.01)

    def rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes what the configuration file says; nobody is told."""
        told = json.loads(self.config.read_text("utf-8"))
        change(told)
        self.config.write_text(json.dumps(told), "utf-8")

    async def counts(self, expert: str = "a") -> dict[str, int]:
        async with self.http.get(f"{self.experts[expert]}/counts") as response:
            counts: dict[str, int] = await response.json(content_type=None)
            return counts

    async def refused_for(self) -> dict[str, int]:
        """How many the gateway has not let in, by what there was too much of."""
        async with self.http.get(f"{self.url}/metrics") as response:
            told = _REFUSED.findall(await response.text())
        return {reason: int(float(n)) for reason, n in told}

    @property
    def process(self) -> psutil.Process:
        """The gateway itself, below what ties it to this process."""
        tree = [self.gateway._process, *self.gateway._process.children(recursive=True)]
        return tree[-1] if len(tree) > 1 else tree[0]


@asynccontextmanager
async def world(
    folder: Path, n_experts: int = 3, engine: Mapping[str, Any] | None = None, **more: Any
) -> AsyncIterator[World]:
    """A gateway that spreads requests evenly over its experts. `more`: of the file's top level."""
    async with AsyncExitStack() as stack:
        experts, servers = {}, {}
        for letter in "abcdefgh"[:n_experts]:
            port = free_port()
            experts[letter] = f"http://127.0.0.1:{port}"
            command = [sys.executable, "-m", "bench.resilience.upstream", "--port", str(port)]
            place = folder / f"expert-{letter}"
            servers[letter] = stack.enter_context(
                serving(command, place, OTHER_CORE, {"PYTHONPATH": str(ROOT)})
            )
        config = _config(folder, experts, engine or {}, more)
        port = free_port()
        command = [sys.executable, "-m", "coe.cli", "serve", "-c", str(config)]
        gateway = stack.enter_context(
            serving([*command, "--port", str(port)], folder / "gateway", GATEWAY_CORE)
        )
        timeout = aiohttp.ClientTimeout(total=_START_S)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        url = f"http://127.0.0.1:{port}"
        wire = Wire(url)
        stack.callback(wire.close)
        made = World(url, wire, http, config, gateway, experts, servers)
        for url in (*experts.values(), made.url):
            await _answers(http, url)
        yield made


def _config(
    folder: Path, experts: Mapping[str, str], engine: Mapping[str, Any], more: Mapping[str, Any]
) -> Path:
    spec = {"kind": "openai", "timeout_s": 1.0, "connect_timeout_s": 0.5, **engine}
    hosting = {"hosting": more["hosting"]} if "hosting" in more else {}
    more = {name: value for name, value in more.items() if name != "hosting"}
    pool = [
        {"id": id_, "engine": {**spec, "base_url": f"{url}/v1"}, **hosting}
        for id_, url in experts.items()
    ]
    config = folder / "experts.yaml"
    told = {"experts": pool, "router": {"scorer": "random"}, **more}
    config.write_text(json.dumps(told), encoding="utf-8")
    return config


async def _answers(http: aiohttp.ClientSession, url: str) -> None:
    until_s = time.monotonic() + _START_S
    while True:
        try:
            async with http.get(f"{url}/v1/models") as response:
                await response.read()
                return
        except aiohttp.ClientConnectorError:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.05)
