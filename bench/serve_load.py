"""Load on a running gateway: closed loop (so many at once) or open loop (so many a second).

    python bench/serve_load.py --url http://127.0.0.1:8000 --concurrency 64 --seconds 5

Every request streams or, with --whole, asks for the answer in one piece. Prints one JSON
object. TTFT is from the request to its first text, latency to its last byte; both in
milliseconds, over finished requests only. What does not finish is counted by its reason. In
the open loop requests start on schedule, however late the answers are: latency then counts
from the scheduled start, and at most --concurrency are under way at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Load:
    """What to send, how fast and for how long."""

    url: str
    """Without `/v1`."""
    model: str = "coe"
    prompt: str = "What is 12 + 30?"
    max_tokens: int | None = None
    concurrency: int = 64
    seconds: float = 5.0
    rate: float | None = None
    """Requests a second of the open loop; None closes the loop."""
    whole: bool = False


@dataclass(slots=True)
class Tally:
    """What came back."""

    latencies_s: list[float] = field(default_factory=list)
    ttfts_s: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Refused(Exception):
    """An answer that is none."""


async def run_load(url: str, model: str, *, concurrency: int, seconds: float) -> dict[str, Any]:
    """A closed loop of streams; `measure` takes every other kind."""
    return await measure(Load(url, model, concurrency=concurrency, seconds=seconds))


async def measure(load: Load) -> dict[str, Any]:
    """Sends the load and reports on it, as JSON can carry it."""
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=load.concurrency)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        started = time.perf_counter()
        if load.rate is None:
            until = started + load.seconds
            await asyncio.gather(
                *(_ask_until(session, load, tally, until) for _ in range(load.concurrency))
            )
        else:
            await _ask_on_schedule(session, load, tally, started)
        elapsed_s = time.perf_counter() - started
    return _report(load, tally, elapsed_s)


async def _ask_until(
    session: aiohttp.ClientSession, load: Load, tally: Tally, until: float
) -> None:
    while (now := time.perf_counter()) < until:
        await _ask(session, load, tally, now)


async def _ask_on_schedule(
    session: aiohttp.ClientSession, load: Load, tally: Tally, started: float
) -> None:
    assert load.rate is not None
    places = asyncio.Semaphore(load.concurrency)

    async def ask_at(due: float) -> None:
        async with places:
            await _ask(session, load, tally, due)

    async with asyncio.TaskGroup() as group:
        for index in range(int(load.rate * load.seconds)):
            due = started + index / load.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask_at(due))


async def _ask(session: aiohttp.ClientSession, load: Load, tally: Tally, start: float) -> None:
    body: dict[str, object] = {
        "model": load.model,
        "messages": [{"role": "user", "content": load.prompt}],
    }
    if load.max_tokens is not None:
        body["max_tokens"] = load.max_tokens
    if not load.whole:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async with session.post(f"{load.url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise Refused(f"status {response.status}")
            first, n_tokens = await (_whole(response) if load.whole else _streamed(response))
    except (aiohttp.ClientError, TimeoutError, Refused) as error:
        tally.errors[str(error) if isinstance(error, Refused) else type(error).__name__] += 1
        return
    tally.latencies_s.append(time.perf_counter() - start)
    tally.ttfts_s.append(first - start)
    tally.completion_tokens += n_tokens


async def _whole(response: aiohttp.ClientResponse) -> tuple[float, int]:
    """When the text came, and its count of tokens."""
    body = json.loads(await response.read())
    return time.perf_counter(), int(body["usage"]["completion_tokens"])


async def _streamed(response: aiohttp.ClientResponse) -> tuple[float, int]:
    """When the first text came, and the count of tokens that the last chunk tells."""
    first: float | None = None
    before_last = last = b""
    async for line in response.content:
        if not line.startswith(b"data: "):
            continue
        if first is None and b'"content":' in line and b'"content":""' not in line:
            first = time.perf_counter()
        before_last, last = last, line
    if not last.startswith(b"data: [DONE]"):
        raise Refused("stream without its end")
    usage = json.loads(before_last.removeprefix(b"data: "))["usage"]
    return first or time.perf_counter(), int(usage["completion_tokens"])


def _report(load: Load, tally: Tally, elapsed_s: float) -> dict[str, Any]:
    n_finished = len(tally.latencies_s)
    return {
        "url": load.url,
        "model": load.model,
        "loop": "closed" if load.rate is None else f"open at {load.rate:g}/s",
        "streamed": not load.whole,
        "concurrency": load.concurrency,
        "seconds": round(elapsed_s, 3),
        "requests": n_finished,
        "errors": dict(tally.errors),
        "requests_per_s": round(n_finished / elapsed_s, 1),
        "completion_tokens_per_s": round(tally.completion_tokens / elapsed_s, 1),
        "latency_ms": _percentiles(tally.latencies_s),
        "ttft_ms": _percentiles(tally.ttfts_s),
    }


def _percentiles(durations_s: Sequence[float]) -> dict[str, float | None]:
    """Nearest rank; None where nothing finished."""
    ordered = sorted(durations_s)
    shares = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
    if not ordered:
        return dict.fromkeys(shares)
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 3)
        for name, share in shares.items()
    }


def _load(arguments: Sequence[str] | None = None) -> Load:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="without /v1")
    parser.add_argument("--model", default=Load.model)
    parser.add_argument("--prompt", default=Load.prompt)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--concurrency", type=int, default=Load.concurrency)
    parser.add_argument("--seconds", type=float, default=Load.seconds)
    parser.add_argument("--rate", type=float, help="open loop: requests per second")
    parser.add_argument("--whole", action="store_true", help="do not stream")
    given = parser.parse_args(arguments)
    if given.concurrency < 1 or given.seconds <= 0 or (given.rate is not None and given.rate <= 0):
        parser.error("--concurrency, --seconds and --rate must be above zero")
    return Load(**vars(given))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(_load())), indent=2))
