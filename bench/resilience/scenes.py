"""Scenes: what goes wrong, and what a client and an operator see of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.resilience.load import Ask, Outcome, ask, open_loop, quantile_s, session
from bench.resilience.upstream import WAYS
from bench.resilience.world import World, world

Row = dict[str, Any]
WHOLE, STREAMED = Ask(timeout_s=10.0), Ask(is_streamed=True, timeout_s=10.0)
_SETTLE_S = 2.0
_KINDS = [WHOLE, WHOLE, WHOLE, STREAMED]


async def failing(folder: Path, way: str, seconds: float) -> Row:
    """One expert of three fails from the second second on, under 100 requests a second."""
    async with world(folder) as w:

        async def break_it() -> None:
            await asyncio.sleep(_SETTLE_S)
            if way in ("kill", "stop"):
                sign = signal.SIGKILL if way == "kill" else signal.SIGSTOP
                for process in w.servers["a"]._tree():
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(sign)
            else:
                await w.fail(way)

        asked = asyncio.create_task(open_loop(w.http, w.url, _KINDS, 100.0, seconds))
        await break_it()
        outcomes = await asked
        if way == "stop":
            for process in w.servers["a"]._tree():
                process.send_signal(signal.SIGCONT)
        others = [await w.counts(letter) for letter in ("b", "c")]
        n_asked = sum(count["asked"] for count in others)
        with suppress(OSError, Exception):
            n_asked += (await w.counts())["asked"]
        return _of_failing(way, outcomes, n_asked, _whole_only(outcomes))


def _whole_only(outcomes: list[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if not o.n_pieces and not o.has_done and not o.has_error_event]


def _of_failing(way: str, outcomes: list[Outcome], n_asked: int, whole: list[Outcome]) -> Row:
    streams = [o for o in outcomes if o not in whole]
    cut = [o for o in streams if not o.is_good]
    bad = [o for o in whole if not o.is_good]
    return {
        "scene": f"failing: {way}",
        "requests": len(outcomes),
        "whole": len(whole),
        "whole_failed": len(bad),
        "whole_failed_share": len(bad) / max(1, len(whole)),
        "whole_p50_s": quantile_s(whole, 0.5),
        "whole_p99_s": quantile_s(whole, 0.99),
        "longest_s": quantile_s(outcomes, 1.0),
        "streams": len(streams),
        "streams_cut": len(cut),
        "cut_without_error_event": sum(not o.has_error_event for o in cut),
        "cut_with_end_mark": sum(o.has_done for o in cut),
        "asked_of_experts": n_asked,
        "problems": _tally(outcomes),
    }


async def overload(folder: Path, seconds: float) -> Row:
    """Three times what the experts can answer, and a calm afterwards."""
    hosting = {"max_in_flight": 4, "max_queued": 4}
    async with world(folder, 1, hosting=hosting, reliability={"retries": False}) as w:
        calm = await open_loop(w.http, w.url, [WHOLE], 20.0, 5.0)
        capacity = await _capacity(w, 8, 5.0)
        stormy = await open_loop(w.http, w.url, [WHOLE], 3 * capacity, seconds)
        ended_s = time.monotonic()
        after = await open_loop(w.http, w.url, [WHOLE], 20.0, 8.0)
    good = [o for o in stormy if o.is_good]
    refused = [o for o in stormy if o.status in (429, 503)]
    base_s = quantile_s(calm, 0.99) or 0.0
    slow = [o.due_s - ended_s for o in after if not o.is_good or o.latency_s > 1.5 * base_s]
    return {
        "scene": "overload",
        "capacity_rps": capacity,
        "offered_rps": 3 * capacity,
        "goodput_share": len(good) / seconds / capacity,
        "calm_p99_s": base_s,
        "accepted_p99_s": quantile_s(good, 0.99),
        "refused": len(refused),
        "refused_p99_s": quantile_s(refused, 0.99),
        "refused_without_retry_after": sum(o.retry_after is None for o in refused),
        "neither": len(stormy) - len(good) - len(refused),
        "recovered_after_s": max(slow, default=0.0),
        "problems": _tally(stormy),
    }


async def _capacity(w: World, concurrency: int, seconds: float) -> float:
    until_s = time.monotonic() + seconds
    n_good = 0

    async def asker() -> None:
        nonlocal n_good
        number = 0
        while time.monotonic() < until_s:
            number += 1
            outcome = await ask(w.http, w.url, WHOLE, number)
            n_good += outcome.is_good

    await asyncio.gather(*(asker() for _ in range(concurrency)))
    return n_good / seconds


async def drain(folder: Path, n: int) -> Row:
    """SIGTERM with so many streams under way, and clients that come too late."""
    async with world(folder) as w:
        running = [asyncio.create_task(ask(w.http, w.url, STREAMED, i)) for i in range(n)]
        await asyncio.sleep(0.15)
        process = w.process
        told_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.02)
        async with session() as fresh:
            late = await asyncio.gather(*(ask(fresh, w.url, WHOLE, i) for i in range(20)))
        outcomes = await asyncio.gather(*running)
        await asyncio.to_thread(process.wait, 30)
        exit_s = time.monotonic() - told_s
    return {
        "scene": "drain",
        "in_flight": n,
        "lost": sum(not o.is_good for o in outcomes),
        "late_asked": len(late),
        "late_answered": sum(o.is_good for o in late),
        "late": _tally(list(late)),
        "exit_s": exit_s,
    }


async def reload(folder: Path, seconds: float) -> Row:
    """SIGHUP every second under 100 requests a second."""
    async with world(folder) as w:
        asked = asyncio.create_task(open_loop(w.http, w.url, _KINDS, 100.0, seconds))
        n_reloads = 0
        while not asked.done():
            await asyncio.sleep(1.0)
            if not asked.done():
                w.process.send_signal(signal.SIGHUP)
                n_reloads += 1
        outcomes = await asked
    return {
        "scene": "reload",
        "requests": len(outcomes),
        "reloads": n_reloads,
        "failed": sum(not o.is_good for o in outcomes),
        "p99_s": quantile_s(outcomes, 0.99),
        "problems": _tally(outcomes),
    }


async def vanish(folder: Path, n: int, at_once: int = 250) -> Row:
    """Clients that go away in the middle of their streams."""
    async with world(folder, 1, engine={"timeout_s": 30.0}) as w:
        for i in range(20):
            await ask(w.http, w.url, STREAMED, i)
        await asyncio.sleep(0.5)
        base = _held(w.process)
        longest_s = 0.0
        for _ in range(0, n, at_once):
            http = session()
            streams = [asyncio.create_task(ask(http, w.url, STREAMED, i)) for i in range(at_once)]
            await asyncio.sleep(0.12)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            await http.close()
            longest_s = max(longest_s, await _until_idle(w))
        await asyncio.sleep(1.0)
        left = _held(w.process)
        still = await ask(w.http, w.url, WHOLE, 1)
        counts = await w.counts()
    return {
        "scene": "vanish",
        "clients": n,
        "cancelled_upstream": counts.get("cancelled", 0),
        "longest_until_cancelled_s": longest_s,
        "sockets_before": base,
        "sockets_after": left,
        "answers_still": still.is_good,
    }


async def _until_idle(w: World) -> float:
    """Seconds until the expert has nobody on its connections that it still answers."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < 5.0:
        counts = await w.counts()
        if counts.get("answering", 0) == 0:
            break
        await asyncio.sleep(0.01)
    return time.monotonic() - began_s


def _held(process: psutil.Process) -> int:
    return len(process.net_connections())


async def soak(folder: Path, n: int) -> Row:
    """So many requests, one after the other on 32 connections, and what they leave behind."""
    async with world(folder, 2, engine={"timeout_s": 30.0}) as w:
        memory: list[tuple[int, float]] = []
        n_done, n_good = 0, 0

        async def asker() -> None:
            nonlocal n_done, n_good
            while n_done < n:
                n_done += 1
                kind = STREAMED if n_done % 20 == 0 else WHOLE
                outcome = await ask(w.http, w.url, kind, n_done)
                n_good += outcome.is_good
                if n_done % (n // 20) == 0:
                    memory.append((n_done, w.process.memory_info().rss / 2**20))

        began_s = time.monotonic()
        await asyncio.gather(*(asker() for _ in range(32)))
        elapsed_s = time.monotonic() - began_s
        sockets = _held(w.process)
    third = [rss for done, rss in memory if done >= n / 3]
    return {
        "scene": "soak",
        "requests": n,
        "good": n_good,
        "rps": n / elapsed_s,
        "rss_mib": [round(rss, 1) for _, rss in memory],
        "growth_share": third[-1] / third[0] - 1.0,
        "sockets_at_end": sockets,
    }


def _tally(outcomes: list[Outcome]) -> Mapping[str, int]:
    tally: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.problem is not None:
            tally[outcome.problem] = tally.get(outcome.problem, 0) + 1
    return tally


FAILURES = ("kill", "stop", *(way for way in WAYS if way != "none"))
Scene = Callable[[Path], Coroutine[Any, Any, Row]]


def scenes(is_quick: bool) -> Mapping[str, Scene]:
    """By name, in the order in which they are run."""
    some_s = 6.0 if is_quick else 20.0
    of_ways: dict[str, Scene] = {way: partial(failing, way=way, seconds=some_s) for way in FAILURES}
    return {
        **of_ways,
        "overload": lambda folder: overload(folder, 10.0 if is_quick else 60.0),
        "drain": lambda folder: drain(folder, 200),
        "reload": lambda folder: reload(folder, some_s),
        "vanish": lambda folder: vanish(folder, 250 if is_quick else 1000),
        "soak": lambda folder: soak(folder, 2_000 if is_quick else 100_000),
    }
