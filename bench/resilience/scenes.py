"""Scenes: what goes wrong, and what a client and an operator see of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.resilience.failures import FAILURES, MIXED, STREAMED, WHOLE, Row, failing, tally
from bench.resilience.load import Ask, Outcome, ask, late_s, open_loop, quantile_s
from bench.resilience.wire import Wire
from bench.resilience.world import World, world

_LONG, _ENDLESS = 12, 1000
"""Chunks of streams that are still running when something happens to them."""
_PATIENT = {"timeout_s": 30.0, "connect_timeout_s": 10.0}
_UNTIMED = Ask(is_streamed=True)


async def overload(folder: Path, seconds: float, is_experts: bool) -> Row:
    """Three times what the expert can answer, or what the gateway's process can, and a calm.

    The capacity is measured by the same clients on the same connections, before and after, for a
    machine that does other things meanwhile is not the same machine at any two times. What it
    takes from the gateway is told beside: answers for each second of the gateway's processor.
    """
    hosting = {"hosting": {"max_in_flight": 4, "max_queued": 4}} if is_experts else {}
    n_askers = 8 if is_experts else 64
    async with world(folder, 1, engine=_PATIENT, **hosting) as w:
        calm = await open_loop(w.wire, [WHOLE], 20.0, 5.0)
        before = await _capacity(w, n_askers, 5.0)
        used_s, ended_s = w.gateway.cpu_s(), time.monotonic() + seconds
        stormy = await open_loop(w.wire, [WHOLE], 3 * before.rps, seconds)
        used_s = w.gateway.cpu_s() - used_s
        after = await open_loop(w.wire, [WHOLE], 20.0, 8.0)
        refused_for = await w.refused_for()
        capacity = before.and_(await _capacity(w, n_askers, 5.0))
    good = [o for o in stormy if o.is_good]
    refused = [o for o in stormy if o.status in (429, 503)]
    base_s = quantile_s(calm, 0.99) or 0.0
    slow = [o.due_s - after[0].due_s for o in after if not o.is_good or o.latency_s > 1.5 * base_s]
    return {
        "scene": f"overload: {'expert' if is_experts else 'gateway'}",
        "capacity_rps": capacity.rps,
        "offered_rps": 3 * before.rps,
        "goodput_share": sum(o.ended_s <= ended_s for o in good) / seconds / capacity.rps,
        "goodput_share_of_cpu": len(good) / used_s / capacity.per_cpu_s,
        "gateway_cpu_share": used_s / seconds,
        "calm_p99_s": base_s,
        "accepted_p50_s": quantile_s(good, 0.5),
        "accepted_p99_s": quantile_s(good, 0.99),
        "refused": len(refused),
        "refused_p50_s": quantile_s(refused, 0.5),
        "refused_p99_s": quantile_s(refused, 0.99),
        "asked_late_p99_s": late_s(stormy, 0.99),
        "refused_without_retry_after": sum(o.retry_after is None for o in refused),
        "refused_for": refused_for,
        "neither": len(stormy) - len(good) - len(refused),
        "recovered_after_s": max(slow, default=0.0),
        "problems": tally(stormy),
    }


@dataclass(frozen=True, slots=True)
class _Capacity:
    rps: float
    per_cpu_s: float
    """Answers for a second of the gateway's processor."""

    def and_(self, other: _Capacity) -> _Capacity:
        return _Capacity((self.rps + other.rps) / 2.0, (self.per_cpu_s + other.per_cpu_s) / 2.0)


async def _capacity(w: World, concurrency: int, seconds: float) -> _Capacity:
    used_s, until_s = w.gateway.cpu_s(), time.monotonic() + seconds
    n_good = 0

    async def asker() -> None:
        nonlocal n_good
        number = 0
        while time.monotonic() < until_s:
            number += 1
            outcome = await ask(w.wire, WHOLE, number)
            n_good += outcome.is_good

    await asyncio.gather(*(asker() for _ in range(concurrency)))
    return _Capacity(n_good / seconds, n_good / (w.gateway.cpu_s() - used_s))


async def drain(folder: Path, n: int) -> Row:
    """SIGTERM with so many streams under way, and clients that come too late."""
    async with world(folder) as w:
        for letter in w.experts:
            await w.chunks(_LONG, letter)
        running = [asyncio.create_task(ask(w.wire, STREAMED, i)) for i in range(n)]
        await w.until_answering(n, "abc")
        process = w.process
        told_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        fresh = Wire(w.url)
        late = await asyncio.gather(*(ask(fresh, WHOLE, i) for i in range(20)))
        fresh.close()
        outcomes = await asyncio.gather(*running)
        await asyncio.to_thread(process.wait, 30)
        exit_s = time.monotonic() - told_s
    return {
        "scene": "drain",
        "in_flight": n,
        "lost": sum(not o.is_good for o in outcomes),
        "longest_stream_s": quantile_s(outcomes, 1.0),
        "problems": tally(outcomes),
        "late_asked": len(late),
        "late_answered": sum(o.is_good for o in late),
        "late_without_retry_after": sum(o.retry_after is None for o in late),
        "late": tally(list(late)),
        "exit_s": exit_s,
    }


async def reload(folder: Path, seconds: float) -> Row:
    """SIGHUP every second under 100 requests a second, for a file that is another one each time:
    with an expert less, with one more, with one changed, and broken.
    """
    async with world(folder, 4) as w:
        full = w.config.read_text("utf-8")
        changes: tuple[Callable[[dict[str, Any]], None], ...] = (
            lambda told: told["experts"].pop(),
            lambda told: told["experts"][0]["engine"].update(timeout_s=2.0),
            lambda told: told["router"].update(failovers=1),
            lambda told: told["experts"][0].update(no_such_key=1),
            lambda told: None,
        )
        asked = asyncio.create_task(open_loop(w.wire, MIXED, 100.0, seconds))
        n_reloads = 0
        while not asked.done():
            await asyncio.sleep(1.0)
            w.config.write_text(full, "utf-8")
            w.rewrite(changes[n_reloads % len(changes)])
            if not asked.done():
                w.process.send_signal(signal.SIGHUP)
                n_reloads += 1
        outcomes = await asked
        await asyncio.sleep(0.5)
        said = (folder / "gateway" / "log").read_text("utf-8")
    return {
        "scene": "reload",
        "requests": len(outcomes),
        "hangups": n_reloads,
        "reloaded": said.count("coe: reloaded"),
        "kept_as_it_was": said.count("coe: not reloaded"),
        "failed": sum(not o.is_good for o in outcomes),
        "p99_s": quantile_s(outcomes, 0.99),
        "asked_late_p99_s": late_s(outcomes, 0.99),
        "problems": tally(outcomes),
    }


async def vanish(folder: Path, n: int, at_once: int = 250) -> Row:
    """Clients that go away in the middle of their streams."""
    async with world(folder, 1, engine=_PATIENT) as w:
        await w.chunks(_ENDLESS)
        await asyncio.gather(*(ask(w.wire, WHOLE, i) for i in range(20)))
        await asyncio.sleep(0.5)
        base = _held(w.process)
        longest_s = 0.0
        for _ in range(0, n, at_once):
            wire = Wire(w.url)
            streams = [asyncio.create_task(_insisting(wire)) for _ in range(at_once)]
            await w.until_answering(at_once)
            await asyncio.sleep(0.1)
            wire.close()
            longest_s = max(longest_s, await _until_idle(w))
            await asyncio.gather(*streams)
        await asyncio.sleep(1.0)
        left = _held(w.process)
        still = await ask(w.wire, WHOLE, 1)
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


async def _insisting(wire: Wire) -> None:
    """A stream of a client who comes again when it is refused."""
    while (await ask(wire, _UNTIMED, 0)).status >= 500:
        await asyncio.sleep(0.5)


async def _until_idle(w: World) -> float:
    """Seconds until the expert has nobody on its connections that it still answers."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < 5.0:
        if (await w.counts()).get("answering", 0) == 0:
            break
        await asyncio.sleep(0.005)
    return time.monotonic() - began_s


def _held(process: psutil.Process) -> int:
    return len(process.net_connections())


async def soak(folder: Path, n: int) -> Row:
    """So many requests, one after the other on 32 connections, and what they leave behind."""
    async with world(folder, 2, engine=_PATIENT) as w:
        memory: list[tuple[int, float]] = []
        outcomes: list[Outcome] = []
        n_begun = 0

        async def asker() -> None:
            nonlocal n_begun
            while n_begun < n:
                n_begun += 1
                number = n_begun
                outcome = await ask(w.wire, STREAMED if number % 20 == 0 else WHOLE, number)
                if not outcome.is_good:
                    outcomes.append(outcome)
                if number % (n // 30) == 0:
                    memory.append((number, w.process.memory_info().rss / 2**20))

        began_s = time.monotonic()
        await asyncio.gather(*(asker() for _ in range(32)))
        elapsed_s = time.monotonic() - began_s
        sockets = _held(w.process)
        refused_for = await w.refused_for()
    third = [rss for number, rss in memory if number >= n / 3]
    return {
        "scene": "soak",
        "requests": n,
        "failed": len(outcomes),
        "problems": tally(outcomes),
        "refused_for": refused_for,
        "rps": n / elapsed_s,
        "rss_mib": [round(rss, 1) for _, rss in memory],
        "growth_share": third[-1] / third[0] - 1.0,
        "sockets_at_end": sockets,
    }


Scene = Callable[[Path], Coroutine[Any, Any, Row]]


def scenes(is_quick: bool) -> Mapping[str, Scene]:
    """By name, in the order in which they are run."""
    some_s, long_s = (6.0, 6.0) if is_quick else (20.0, 60.0)
    ways: dict[str, Scene] = {way: partial(failing, way=way, seconds=some_s) for way in FAILURES}
    return {
        **ways,
        "overload": lambda folder: overload(folder, long_s, is_experts=True),
        "overload-gateway": lambda folder: overload(folder, long_s, is_experts=False),
        "drain": lambda folder: drain(folder, 200),
        "reload": lambda folder: reload(folder, some_s),
        "vanish": lambda folder: vanish(folder, 250 if is_quick else 1000),
        "soak": lambda folder: soak(folder, 3_000 if is_quick else 100_000),
    }
