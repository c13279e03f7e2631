"""What the gateway's state costs a request: `python -m bench.store`.

Microseconds per operation, of one task that asks one thing after another: the median of several
rounds, in memory of the thread's processor time and with Redis of the clock. "a request" is all
that an answered one asks in turn, but for the name that it is cached under. Rows of Redis are of a
redis-server on this machine, over a socket, and left out where there is none. The semantic cache
is given pairs of texts that are all but the same and differ in one thing that changes the answer;
a pair that it would answer alike is a false hit. Writes bench/results/store.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from coe.encoders.static import DEFAULT_TABLE, StaticEncoder
from coe.store import (
    CachedResponse,
    KeyLimits,
    LoggedDecision,
    SemanticSettings,
    Store,
    StoreSettings,
    cache_key,
    open_store,
)
from coe.store.own_redis import OwnRedis, redis_binary
from coe.store.semantic import SemanticCache

RESULTS = Path(__file__).resolve().parent / "results" / "store.json"
ROUNDS = 7
MILLION = 1_000_000
THRESHOLD = 0.95
LIMITS = KeyLimits(rpm=10**9, tpm=10**9, budget_usd=1e6)
REQUEST = {
    "model": "coe",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "How tall is the tower that stands in the middle of it? " * 4},
    ],
    "temperature": 0.0,
    "max_tokens": 256,
}
DECISION = LoggedDecision("req", "acme", "ensemble", "top-1", ("math",), 0.5, 100, 50, 0.001)

ASKS = (
    "How many days of leave does a contract of {number} hours a week give in {name}?",
    "My {noun} has eaten {number} grams of chocolate, should I call somebody?",
    "Write a function that {verb} the list `{code}` and returns what is left of it.",
    'Translate the sentence "{quote}" into French and say how formal it is.',
    "Is it {maybe}safe to leave the {noun} alone in the garden of {name} at night?",
)
CONTEXT = (
    "I am planning a longer journey with my family and would like to prepare everything well in "
    "advance, so please answer in full sentences and mention what else I should think of. "
)
FIRST = {
    "number": "14",
    "name": "Norway",
    "noun": "dog",
    "verb": "sorts",
    "code": "a + b",
    "quote": "see you soon",
    "maybe": "",
}
OTHERS = {
    "number": ("41", "15", "140", "1.4"),
    "name": ("Sweden", "Denmark", "Finland", "Iceland"),
    "noun": ("cat", "puppy", "hamster", "rabbit"),
    "verb": ("orders", "reverses", "filters", "shuffles"),
    "code": ("a - b", "a * b", "b + a", "a + c"),
    "quote": ("see you later", "see you never", "we meet soon", "hear you soon"),
    "maybe": ("not ", "never ", "rarely "),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {"us_per_operation": {"memory": asyncio.run(_timed(None, 3000))}}
    if binary := redis_binary():
        with OwnRedis(binary) as redis:
            report["us_per_operation"]["redis"] = asyncio.run(_timed(redis.url, 300))
    report["semantic_cache"] = _semantic()
    for row in _rows(report["us_per_operation"]):
        print(row)
    print(json.dumps(report["semantic_cache"], indent=2))
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


async def _timed(redis_url: str | None, n: int) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        settings = StoreSettings(Path(folder), redis_url, redis_timeout_s=1.0)
        store = open_store(settings)
        try:
            # Neighbours on the machine disturb processor time least; Redis is waited for.
            clock = time.thread_time if redis_url is None else time.perf_counter
            return await _operations(store, n, clock)
        finally:
            await store.close()


async def _operations(store: Store, n: int, clock: Callable[[], float]) -> dict[str, float]:
    token, key = await store.keys.create("acme", LIMITS)
    header = f"Bearer {token}".encode()
    cached_as = cache_key(REQUEST, key.tenant, ("math@1",), "router@1")
    await store.cache.put(cached_as, CachedResponse(b"x" * 2000))

    async def money() -> None:
        await store.spend.settle(await store.spend.reserve(key, 0.001), 0.0005)

    async def correct() -> None:
        await store.limits.correct(key, 100, 99)

    async def name() -> None:
        cache_key(REQUEST, key.tenant, ("math@1",), "router@1")

    async def log() -> None:
        store.decisions.add(DECISION)

    async def request() -> None:
        await store.keys.find(header)
        await store.limits.take(key, 100)
        await store.cache.get(cached_as)
        await money()
        await correct()
        log_row = store.decisions.add
        log_row(DECISION)

    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "key lookup": lambda: store.keys.find(header),
        "limit check": lambda: store.limits.take(key, 100),
        "limit correction": correct,
        "reserve and settle": money,
        "cache key": name,
        "cache hit": lambda: store.cache.get(cached_as),
        "decision logged": log,
        "a request": request,
    }
    return {name: await _us(operation, n, clock) for name, operation in asked.items()}


async def _us(
    operation: Callable[[], Awaitable[object]], n: int, clock: Callable[[], float]
) -> float:
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        began = clock()
        for _ in range(n):
            await operation()
        rounds.append((clock() - began) / n * MILLION)
        # What was put is written between the rounds, which the queue would else not hold.
        await asyncio.sleep(0.3)
    return round(statistics.median(rounds), 2)


def _semantic() -> dict[str, Any]:
    encoder = StaticEncoder(DEFAULT_TABLE)
    counts: dict[str, dict[str, int]] = {}
    for changed, one, other in _pairs():
        row = counts.setdefault(
            changed, {"pairs": 0, "by_similarity_alone": 0, "not_strict": 0, "strict": 0}
        )
        vectors = encoder.encode([one, other]).astype(np.float32)
        row["pairs"] += 1
        row["by_similarity_alone"] += float(vectors[0] @ vectors[1]) >= THRESHOLD
        for name, is_strict in (("strict", True), ("not_strict", False)):
            cache = SemanticCache(encoder.dim, SemanticSettings(THRESHOLD, is_strict))
            cache.put("acme", "", one, vectors[0], CachedResponse(b""))
            row[name] += cache.get("acme", "", other, vectors[1]) is not None
    cache = SemanticCache(encoder.dim)
    texts = [f"{CONTEXT}{n}" for n in range(2000)]
    vectors = encoder.encode(texts).astype(np.float32)
    for text, vector in zip(texts, vectors, strict=True):
        cache.put("acme", "", text, vector, CachedResponse(b""))
    began = time.perf_counter()
    for text, vector in zip(texts, vectors, strict=True):
        cache.get("acme", "", text, vector)
    us = (time.perf_counter() - began) / len(texts) * MILLION
    return {
        "encoder": encoder.name,
        "threshold": THRESHOLD,
        "false_hits": counts,
        "us_per_lookup_of_2000": round(us, 1),
    }


def _pairs() -> Iterator[tuple[str, str, str]]:
    """What was changed, and both texts: alone, and after a context that both share."""
    for ask, context, (slot, others) in itertools.product(ASKS, ("", CONTEXT), OTHERS.items()):
        if f"{{{slot}}}" in ask:
            one = context + ask.format(**FIRST)
            for other in others:
                yield slot, one, context + ask.format(**FIRST | {slot: other})


def _rows(times: dict[str, dict[str, float]]) -> Iterator[str]:
    yield f"{'µs':<20}" + "".join(f"{name:>10}" for name in times)
    for operation in times["memory"]:
        cells = (f"{columns[operation]:>10.1f}" for columns in times.values())
        yield f"{operation:<20}" + "".join(cells)


if __name__ == "__main__":
    main()
