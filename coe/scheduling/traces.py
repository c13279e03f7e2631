"""Arrivals for the simulator: who asks for which expert, when, and how much work it is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

WorkTimes = Sequence[float]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    at_s: float
    expert_id: str
    work_s: float
    """Service alone on its expert."""
    priority: int = 0
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How much comes, common to all traces."""

    n: int
    """Arrivals in all."""
    per_s: float
    """Their mean rate."""
    work_s: float = 1.0
    """Mean work; each request's is drawn from a gamma distribution."""
    spread: float = 0.5
    """Standard deviation of the work as a share of its mean; 0 makes all alike."""

    def work(self, random_: random.Random) -> float:
        if self.spread <= 0.0:
            return self.work_s
        shape = 1.0 / self.spread**2
        return random_.gammavariate(shape, self.work_s / shape)


def zipf_shares(n: int, exponent: float = 1.0) -> list[float]:
    """(n,) popularity of each expert, most popular first; exponent 0 makes all alike."""
    weights = [1.0 / rank**exponent for rank in range(1, n + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def hot_shares(n: int, hot: float = 0.95) -> list[float]:
    """(n,) one expert takes nearly everything, the others share the rest."""
    return [hot, *([(1.0 - hot) / (n - 1)] * (n - 1))]


def poisson(
    expert_ids: Sequence[str], shares: Sequence[float], load: Load, seed: int
) -> list[Arrival]:
    """Independent arrivals: exponential gaps, each expert by its share."""
    random_ = random.Random(seed)
    bounds = list(accumulate(shares))
    now = 0.0
    arrivals = []
    for _ in range(load.n):
        now += random_.expovariate(load.per_s)
        expert_id = random_.choices(expert_ids, cum_weights=bounds)[0]
        arrivals.append(Arrival(now, expert_id, load.work(random_)))
    return arrivals


def bursts(
    expert_ids: Sequence[str], load: Load, seed: int, on_s: float = 20.0, off_s: float = 100.0
) -> list[Arrival]:
    """Each expert is asked for only in bursts of its own, of exponential lengths."""
    random_ = random.Random(seed)
    horizon_s = load.n / load.per_s
    rate = load.per_s / len(expert_ids) * (on_s + off_s) / on_s
    arrivals: list[Arrival] = []
    for expert_id in expert_ids:
        for begin, end in _bursts(random_, horizon_s, on_s, off_s):
            now = begin + random_.expovariate(rate)
            while now < end:
                arrivals.append(Arrival(now, expert_id, load.work(random_)))
                now += random_.expovariate(rate)
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def _bursts(
    random_: random.Random, horizon_s: float, on_s: float, off_s: float
) -> Iterator[tuple[float, float]]:
    now = -random_.uniform(0.0, on_s + off_s)
    while now < horizon_s:
        end = now + random_.expovariate(1.0 / on_s)
        yield max(0.0, now), min(horizon_s, end)
        now = end + random_.expovariate(1.0 / off_s)


def cyclic(expert_ids: Sequence[str], load: Load, seed: int) -> list[Arrival]:
    """Always the expert that was asked for longest ago: the worst case of LRU."""
    random_ = random.Random(seed)
    n_experts = len(expert_ids)
    return [
        Arrival(i / load.per_s, expert_ids[i % n_experts], load.work(random_))
        for i in range(load.n)
    ]


def recorded(assignments: Sequence[str], load: Load, seed: int) -> list[Arrival]:
    """Experts as a router chose them, in that order and over again, arriving at random."""
    random_ = random.Random(seed)
    now = 0.0
    arrivals = []
    for i in range(load.n):
        now += random_.expovariate(load.per_s)
        arrivals.append(Arrival(now, assignments[i % len(assignments)], load.work(random_)))
    return arrivals


def all_at_once(counts: Sequence[tuple[str, int]], work_s: float = 1.0) -> list[Arrival]:
    """A batch: everything is there at the start, experts taking turns."""
    left = [[expert_id] * n for expert_id, n in counts]
    arrivals = []
    while any(left):
        for queue in left:
            if queue:
                arrivals.append(Arrival(0.0, queue.pop(), work_s))
    return arrivals
