"""Clients that ask on schedule and look closely at what they get."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

PATIENCE_S = 20.0
"""A client that has waited so long has been hung up on by nobody: that is a failure of ours."""


@dataclass(slots=True)
class Outcome:
    """What came of one request. Seconds on the monotonic clock."""

    due_s: float
    ended_s: float = 0.0
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


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of request."""

    is_streamed: bool = False
    model: str = "coe"
    timeout_s: float | None = None
    """The deadline that the client tells the gateway."""


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
    )


async def ask(http: aiohttp.ClientSession, url: str, kind: Ask, number: int) -> Outcome:
    """Never raises: what goes wrong is in the outcome."""
    return await ask_at(http, url, kind, number, time.monotonic())


async def ask_at(
    http: aiohttp.ClientSession, url: str, kind: Ask, number: int, due_s: float
) -> Outcome:
    outcome = Outcome(due_s)
    headers = {} if kind.timeout_s is None else {"x-coe-timeout": f"{kind.timeout_s:g}"}
    body: dict[str, Any] = {
        "model": kind.model,
        "messages": [{"role": "user", "content": f"What is {number} + {number % 7}?"}],
        "stream": kind.is_streamed,
    }
    try:
        async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            outcome.status = response.status
            outcome.retry_after = response.headers.get("retry-after")
            outcome.expert = response.headers.get("x-coe-expert", "")
            if response.status != 200:
                outcome.problem = f"status {response.status}"
                await response.read()
            elif kind.is_streamed:
                await _hear(response, outcome)
            else:
                answer = await response.json()
                if not answer["choices"][0]["message"]["content"]:
                    outcome.problem = "empty"
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
        outcome.problem = type(error).__name__
    outcome.ended_s = time.monotonic()
    return outcome


async def _hear(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            outcome.has_done = True
        elif line.startswith(b'data: {"error"'):
            outcome.has_error_event = True
        elif b'"content":"word' in line or b'"content": "word' in line:
            outcome.n_pieces += 1
    if outcome.has_error_event or not outcome.has_done:
        outcome.problem = "cut"


async def open_loop(
    http: aiohttp.ClientSession, url: str, kinds: list[Ask], rate: float, seconds: float
) -> list[Outcome]:
    """On schedule however late the answers are; the kinds take turns at random."""
    draw = random.Random(0)
    started_s = time.monotonic() + 0.05
    tasks: list[asyncio.Task[Outcome]] = []
    for number in range(int(rate * seconds)):
        due_s = started_s + number / rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        kind = draw.choice(kinds)
        tasks.append(asyncio.create_task(ask_at(http, url, kind, number, due_s)))
    return list(await asyncio.gather(*tasks))


def quantile_s(outcomes: list[Outcome], share: float) -> float | None:
    latencies = sorted(outcome.latency_s for outcome in outcomes)
    if not latencies:
        return None
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))]
