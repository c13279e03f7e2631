"""Clients that ask on schedule and look closely at what they get."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import orjson

from bench.resilience.wire import Wire

PATIENCE_S = 20.0
"""A client that has waited so long has been hung up on by nobody: that is a failure of ours."""


@dataclass(slots=True)
class Outcome:
    """What came of one request. Seconds on the monotonic clock."""

    due_s: float
    asked_s: float = 0.0
    """When it went out: later than due where whoever asks has no time."""
    ended_s: float = 0.0
    is_streamed: bool = False
    status: int = 0
    """0: no response at all."""
    problem: str | None = None
    """Why there is no whole answer."""
    has_done: bool = False
    """Whether a stream ended with its end mark."""
    has_error_event: bool = False
    retry_after: str | None = None
    expert: str = ""
    n_pieces: int = 0
    """Events with text."""

    @property
    def is_good(self) -> bool:
        return self.problem is None and self.status == 200

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s

    @property
    def is_cut(self) -> bool:
        """A stream that had begun and was not brought to its end."""
        return self.is_streamed and self.status == 200 and not self.is_good


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of request."""

    is_streamed: bool = False
    model: str = "coe"
    timeout_s: float | None = None
    """The deadline that the client tells the gateway."""


async def ask(wire: Wire, kind: Ask, number: int, due_s: float | None = None) -> Outcome:
    """Never raises: what goes wrong is in the outcome. `due_s` None: now."""
    now = time.monotonic()
    outcome = Outcome(now if due_s is None else due_s, now, is_streamed=kind.is_streamed)
    headers = "" if kind.timeout_s is None else f"x-coe-timeout: {kind.timeout_s:g}\r\n"
    body = orjson.dumps(
        {
            "model": kind.model,
            "messages": [{"role": "user", "content": f"What is {number} + {number % 7}?"}],
            "stream": kind.is_streamed,
        }
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await wire.post("/v1/chat/completions", body, headers, outcome)
        outcome.problem = _problem(outcome, answer)
    except (OSError, ValueError, LookupError) as error:
        outcome.problem = type(error).__name__
    outcome.ended_s = time.monotonic()
    return outcome


def _problem(outcome: Outcome, answer: bytes) -> str | None:
    if outcome.status != 200:
        return f"status {outcome.status}"
    if outcome.is_streamed:
        return "cut" if outcome.has_error_event or not outcome.has_done else None
    return None if orjson.loads(answer)["choices"][0]["message"]["content"] else "empty"


async def open_loop(wire: Wire, kinds: list[Ask], rate: float, seconds: float) -> list[Outcome]:
    """On schedule however late the answers are; the kinds take turns at random."""
    draw = random.Random(0)
    started_s = time.monotonic() + 0.05
    tasks: list[asyncio.Task[Outcome]] = []
    for number in range(int(rate * seconds)):
        due_s = started_s + number / rate
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        kind = draw.choice(kinds)
        tasks.append(asyncio.create_task(ask(wire, kind, number, due_s)))
    return list(await asyncio.gather(*tasks))


def quantile_s(outcomes: list[Outcome], share: float) -> float | None:
    return _quantile([outcome.latency_s for outcome in outcomes], share)


def late_s(outcomes: list[Outcome], share: float) -> float | None:
    """How late whoever asks was: what the latencies have in them that is not the gateway's."""
    return _quantile([outcome.asked_s - outcome.due_s for outcome in outcomes], share)


def _quantile(values: list[float], share: float) -> float | None:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else None
