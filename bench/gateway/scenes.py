"""What is done with one running gateway, from its first answer to its last: one part of a round."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.gateway.client import Client, Heard
from bench.gateway.loads import (
    Figures,
    closed_loop,
    open_loop,
    problems,
    rate_of,
    stream_figures,
    whole_figures,
)
from bench.gateway.mock import Task
from bench.gateway.processes import Server

Scenes = dict[str, Figures]
QUESTION = "What is 12 + 30?"
_START_S = 180.0
_POLL_S = 0.01
_LARGE_BYTES = 10_000


class NoAnswer(Exception):
    """A gateway that never answered, or said no."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how much; the same for every gateway."""

    rounds: int = 5
    seconds: float = 10.0
    """Of each open loop; a closed loop takes half as long."""
    warm_s: float = 3.0
    """Before anything is measured: gateways load some of themselves with the first requests."""
    rates: tuple[int, ...] = (20, 100, 200)
    """Requests a second of the open loops."""
    think_ms: int = 20
    """Of the expert in the open loops; in the closed loop it answers at once."""
    concurrency: int = 64
    streams: int = 200
    chunks: int = 200
    chunk_rate: int = 50
    """Chunks a second of each stream."""
    spread_s: float = 1.0
    """The streams begin within so long: all at once would only measure the queue they make."""

    @classmethod
    def quick(cls) -> Settings:
        return cls(rounds=1, seconds=1.0, warm_s=0.5, streams=50, chunks=50)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a gateway, or the expert itself."""

    url: str
    model: str
    server: Server | None
    """None: nobody whose CPU time and memory were to be told."""
    expert_url: str
    texts: Sequence[str] = (QUESTION,)

    def requests(self, client: Client, task: Task, is_streamed: bool = False) -> list[bytes]:
        """One for each text, as they go over the wire."""
        more = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
        bodies = (
            {
                "model": self.model,
                "messages": [{"role": "user", "content": f"{task} {text}"}],
                **more,
            }
            for text in self.texts
        )
        return [client.post(json.dumps(body).encode()) for body in bodies]

    def cpu_s(self) -> float:
        return 0.0 if self.server is None else self.server.cpu_s()


async def all_scenes(target: Target, settings: Settings) -> Scenes:
    """Everything, one after the other. Raises `NoAnswer` or `Ended`."""
    client = Client(target.url)
    try:
        scenes = {"start": await _start(target, client)}
        await closed_loop(client, target.requests(client, Task()), 8, settings.warm_s)
        for rate in settings.rates:
            scenes[f"open_{rate}"] = await _open(target, client, settings, rate)
        closed = f"closed_{settings.concurrency}"
        scenes[closed] = await _closed(target, client, settings, Task())
        large = Task(n_bytes=_LARGE_BYTES)
        scenes[f"{closed}_10kb"] = await _closed(target, client, settings, large)
        scenes["streams"] = await _streams(target, client, settings)
        if target.server is not None:
            scenes["end"] = {"rss_mib": round(target.server.rss_mib(), 1)}
    finally:
        client.close()
    return scenes


async def probe_ms(expert_url: str, model: str, seconds: float) -> float:
    """p99 of an expert that answers at once, asked directly 200 times a second.

    Says how much this machine does besides; where it is high, no figure can be believed.
    """
    client = Client(expert_url)
    try:
        requests = Target(expert_url, model, None, expert_url).requests(client, Task())
        await closed_loop(client, requests, 8, 0.2)
        heard = await open_loop(client, requests, 200, int(200 * seconds))
    finally:
        client.close()
    return whole_figures(heard)["p99_ms"] or float("inf")


async def _start(target: Target, client: Client) -> Figures:
    """From the start of the process to its first whole answer, by the expert behind it."""
    (request, *_) = target.requests(client, Task())
    if target.server is None:
        return {}
    while True:
        heard = await client.ask(request)
        ready_s = time.monotonic() - target.server.started_s
        if heard.problem is None:
            break
        target.server.check()
        if ready_s > _START_S:
            raise NoAnswer(f"no answer within {_START_S:g} s, but {heard.problem}")
        await asyncio.sleep(_POLL_S)
    return {"first_200_s": round(ready_s, 3), "rss_mib": round(target.server.rss_mib(), 1)}


async def _open(target: Target, client: Client, settings: Settings, rate: int) -> Figures:
    requests = target.requests(client, Task(think_ms=settings.think_ms))
    before_s, began_s = target.cpu_s(), time.monotonic()
    heard = await open_loop(client, requests, rate, int(rate * settings.seconds))
    figures = _costed(target, before_s, heard, whole_figures(heard))
    return {"requests_per_s": round(rate_of(heard, began_s), 1), **figures}


async def _closed(target: Target, client: Client, settings: Settings, task: Task) -> Figures:
    requests = target.requests(client, task)
    before_s, began_s = target.cpu_s(), time.monotonic()
    heard = await closed_loop(client, requests, settings.concurrency, settings.seconds / 2)
    figures = _costed(target, before_s, heard, whole_figures(heard))
    return {"requests_per_s": round(rate_of(heard, began_s), 1), **figures}


async def _streams(target: Target, client: Client, settings: Settings) -> Figures:
    task = Task(n_chunks=settings.chunks, rate=settings.chunk_rate)
    requests = target.requests(client, task, is_streamed=True)
    before_s, counted = target.cpu_s(), _counts(target.expert_url)
    rate = settings.streams / settings.spread_s
    heard = await open_loop(client, requests, rate, settings.streams)
    figures = stream_figures(heard, settings.chunks)
    n_sent = _counts(target.expert_url)["chunks"] - counted["chunks"]
    n_whole = figures["requests"] or 0
    cost = _costed(target, before_s, heard, figures)
    if target.server is not None and n_whole:
        cost["cpu_us_per_chunk"] = round((target.cpu_s() - before_s) / n_sent * 1e6, 1)
    return {**cost, "chunks_sent": n_sent}


def _costed(target: Target, before_s: float, heard: Sequence[Heard], figures: Figures) -> Figures:
    """With the gateway's CPU time for each request. Raises `NoAnswer` where none was answered."""
    if not figures["requests"]:
        raise NoAnswer(f"no request was answered whole: {problems(heard) or 'cut short'}")
    if target.server is None:
        return figures
    spent_s = target.cpu_s() - before_s
    return {**figures, "cpu_ms": round(spent_s / figures["requests"] * 1000, 4)}


def _counts(expert_url: str) -> Mapping[str, int]:
    with urllib.request.urlopen(f"{expert_url}/counts", timeout=10) as response:
        counts: dict[str, int] = json.load(response)
    return counts
