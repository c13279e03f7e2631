"""Loads: open loop, closed loop, streams; and the figures of what came back."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.gateway.client import Client, Heard

Figures = dict[str, float | None]
_GRACE_S = 60.0
"""How long answers may take after the last request was due."""


async def open_loop(client: Client, requests: Sequence[bytes], rate: float, n: int) -> list[Heard]:
    """`n` requests, on schedule however late the answers are; latency counts from the schedule.

    Each is due at a random moment of its own slot, the same ones in every run: timers tick in
    milliseconds, and requests at equal distances would all meet the same part of a tick.
    """
    slots = random.Random(0)
    started_s = time.monotonic() + 0.01
    tasks: list[asyncio.Task[Heard]] = []
    with _undisturbed():
        for index in range(n):
            due_s = started_s + (index + slots.random()) / rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            request = requests[index % len(requests)]
            tasks.append(asyncio.create_task(client.ask(request, due_s)))
        return await _all_heard(tasks)


async def closed_loop(
    client: Client, requests: Sequence[bytes], concurrency: int, seconds: float
) -> list[Heard]:
    """So many at once, each followed by the next, for so long."""
    heard: list[Heard] = []
    until_s = time.monotonic() + seconds

    async def ask_on(request: bytes) -> None:
        while time.monotonic() < until_s:
            heard.append(await client.ask(request))
            if heard[-1].problem is not None:
                await asyncio.sleep(0.01)  # a server that refuses is not to be asked in a circle

    with _undisturbed():
        askers = (ask_on(requests[index % len(requests)]) for index in range(concurrency))
        tasks = [asyncio.create_task(asker) for asker in askers]
        _, late = await asyncio.wait(tasks, timeout=seconds + _GRACE_S)
        await _cancelled(late)
    heard += [Heard(until_s, problem="late") for _ in late]
    return heard


async def _all_heard(tasks: Sequence[asyncio.Task[Heard]]) -> list[Heard]:
    """What came; what is not there in time counts as late."""
    done, late = await asyncio.wait(tasks, timeout=_GRACE_S)
    await _cancelled(late)
    return [task.result() for task in done] + [Heard(0.0, problem="late") for _ in late]


async def _cancelled(tasks: set[asyncio.Task[Heard]] | set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without collections of rubbish, which would delay requests that have no part in it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def whole_figures(heard: Sequence[Heard]) -> Figures:
    """Latency in milliseconds over whole answers, and how many requests had none."""
    answered = [one for one in heard if one.problem is None]
    latencies = [one.latency_s for one in answered]
    return {
        "requests": len(answered),
        "errors": len(heard) - len(answered),
        "p50_ms": quantile_ms(latencies, 0.50),
        "p99_ms": quantile_ms(latencies, 0.99),
    }


def rate_of(heard: Sequence[Heard], began_s: float) -> float:
    """Whole answers a second, from the beginning of the load to the last of them."""
    ends = [one.ended_s for one in heard if one.problem is None]
    return len(ends) / (max(ends) - began_s) if ends else 0.0


def stream_figures(heard: Sequence[Heard], n_chunks: int) -> Figures:
    """Milliseconds from the schedule to the first chunk, between chunks, and under way.

    A stream that lacks chunks or its `[DONE]` is an error. `merged` is the number of chunks that
    did not have a piece of the body for themselves.
    """
    whole = [one for one in heard if one.problem is None and _is_whole(one, n_chunks)]
    ttfts = [one.came_s[0] - one.due_s for one in whole]
    gaps = [b - a for one in whole for a, b in zip(one.came_s, one.came_s[1:], strict=False)]
    delays = [
        came - sent / 1e6
        for one in whole
        for came, sent in zip(one.came_s, one.sent_us, strict=True)
    ]
    return {
        "requests": len(whole),
        "errors": len(heard) - len(whole),
        "chunks": sum(len(one.came_s) for one in heard),
        "merged": sum(one.n_merged for one in heard),
        "ttft_p50_ms": quantile_ms(ttfts, 0.50),
        "ttft_p99_ms": quantile_ms(ttfts, 0.99),
        "gap_p99_ms": quantile_ms(gaps, 0.99),
        "delay_p50_ms": quantile_ms(delays, 0.50),
        "delay_p99_ms": quantile_ms(delays, 0.99),
    }


def problems(heard: Sequence[Heard]) -> dict[str, int]:
    return dict(Counter(one.problem for one in heard if one.problem is not None))


def quantile_ms(durations_s: Sequence[float], share: float) -> float | None:
    """Nearest rank; None where there is nothing."""
    if not durations_s:
        return None
    rank = max(0, math.ceil(share * len(durations_s)) - 1)
    return round(sorted(durations_s)[rank] * 1000, 3)


def _is_whole(heard: Heard, n_chunks: int) -> bool:
    return heard.is_done and len(heard.came_s) == n_chunks
