"""Scenes in which one expert of three fails."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench.resilience.load import Ask, Outcome, late_s, open_loop, quantile_s
from bench.resilience.upstream import WAYS
from bench.resilience.world import World, world

Row = dict[str, Any]
WHOLE, STREAMED = Ask(timeout_s=10.0), Ask(is_streamed=True, timeout_s=10.0)
MIXED = [WHOLE, WHOLE, WHOLE, STREAMED]
FAILURES = ("kill", "stop", "silent", *(way for way in WAYS if way != "none"))
_RATE = 100.0
_SETTLE_S = 2.0


async def failing(folder: Path, way: str, seconds: float) -> Row:
    """One expert of three fails from the second second on, under 100 requests a second.

    `silent` hangs, too, behind an engine that would wait for two minutes: only the client's
    deadline says that this is too long.
    """
    engine = {"timeout_s": 120.0} if way == "silent" else None
    async with world(folder, engine=engine) as w:
        asked = asyncio.create_task(open_loop(w.wire, MIXED, _RATE, seconds))
        await asyncio.sleep(_SETTLE_S)
        before = (await w.counts()).get("asked", 0)
        await _break(w, way)
        outcomes = await asked
        if way == "stop":
            _signal(w, signal.SIGCONT)
            await asyncio.sleep(0.5)  # it reads what has waited for it
        n_asked = sum([(await w.counts(letter)).get("asked", 0) for letter in "bc"])
        # What a process that is dead was asked while it lived; nobody reached it after that.
        n_asked += before if way == "kill" else (await w.counts()).get("asked", 0)
    return {"scene": f"failing: {way}", **_row(outcomes, n_asked)}


async def _break(w: World, way: str) -> None:
    if way == "kill":
        _signal(w, signal.SIGKILL)
    elif way == "stop":
        _signal(w, signal.SIGSTOP)
    else:
        await w.fail("hang" if way == "silent" else way)


def _signal(w: World, sign: signal.Signals) -> None:
    for process in w.servers["a"]._tree():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sign)


def _row(outcomes: list[Outcome], n_asked: int) -> Row:
    whole = [o for o in outcomes if not o.is_streamed]
    streams = [o for o in outcomes if o.is_streamed]
    cut = [o for o in streams if o.is_cut]
    bad = [o for o in whole if not o.is_good]
    return {
        "requests": len(outcomes),
        "whole": len(whole),
        "whole_failed": len(bad),
        "whole_failed_share": len(bad) / max(1, len(whole)),
        "whole_p50_s": quantile_s(whole, 0.5),
        "whole_p99_s": quantile_s(whole, 0.99),
        "longest_s": quantile_s(outcomes, 1.0),
        "asked_late_p99_s": late_s(outcomes, 0.99),
        "streams": len(streams),
        "streams_refused": sum(o.status != 200 for o in streams),
        "streams_cut": len(cut),
        "cut_without_error_event": sum(not o.has_error_event for o in cut),
        "cut_with_end_mark": sum(o.has_done for o in cut),
        "extra_load_share": n_asked / len(outcomes) - 1.0,
        "problems": tally(outcomes),
    }


def tally(outcomes: list[Outcome]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.problem is not None:
            counts[outcome.problem] = counts.get(outcome.problem, 0) + 1
    return counts
