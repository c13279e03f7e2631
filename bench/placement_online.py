"""Homes that follow demand, in the simulator: `python -m bench.placement_online`.

Three devices of 10 GiB and twelve experts, three of 8 GiB and nine of 3 GiB. In the middle of each
trace demand changes: either who is popular is turned round, or each query recruits another pair.
Compared are: any device for anybody (`free`, the default); the placement that is best for the first
half, kept (`fixed`); the same, but for homes that follow what was asked for (`following`); these
without any placement at the start (`online`, which is `scheduling.rebalance_s`); and the best
placement of each half, taken up in the middle (`known`). Means over seeds. Writes
bench/results/placement_online.json.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.scheduling import Effects, Site, SwapCosts, SwapRules, SwapScheduler, Tenant, Ticket
from coe.scheduling.expert_trace import trace_of
from coe.scheduling.metrics import summarize
from coe.scheduling.placement import Demand, Home
from coe.scheduling.placing import PlaceRules, place
from coe.scheduling.rebalanced import Rebalanced
from coe.scheduling.service_model import ServiceModel
from coe.scheduling.simulator import Simulator
from coe.scheduling.traces import Arrival

RESULTS = Path(__file__).resolve().parent / "results" / "placement_online.json"
LARGE = [f"large-{i}" for i in range(3)]
SMALL = [f"small-{i}" for i in range(9)]
SEEDS = (11, 12, 13)
PER_S = (0.3, 0.6, 1.0)
N_QUERIES = 1500
"""In each half."""
EVERY_S = 600.0
RULES = SwapRules()

Queries = Sequence[tuple[Sequence[str], float]]
Homes = Mapping[str, Home]


@dataclass(frozen=True)
class Halves:
    """A trace whose demand changes in the middle."""

    first: Queries
    second: Queries
    arrivals: Sequence[Arrival]


class Changed(Rebalanced):
    """Takes up another placement at a time known before."""

    def __init__(
        self, site: Site, effects: Effects, first: Homes, later: tuple[float, Homes]
    ) -> None:
        super().__init__(site, effects, RULES, math.inf, first)
        self._at_s, self._second = later

    def on_arrival(self, now: float, ticket: Ticket) -> None:
        if now >= self._at_s:
            self._at_s = math.inf
            self.on_placements(now, {id_: (home.devices,) for id_, home in self._second.items()})
        super().on_arrival(now, ticket)


def site() -> Site:
    tenants = [Tenant(id_, 8.0, costs=SwapCosts(load_s=20.0)) for id_ in LARGE]
    tenants += [Tenant(id_, 3.0, costs=SwapCosts(load_s=5.0)) for id_ in SMALL]
    return Site({f"gpu{i}": 10.0 for i in range(3)}, tuple(tenants))


def recruits(change: str) -> tuple[list[list[str]], list[list[str]]]:
    """What queries ask for in each half, most popular first."""
    if change == "popularity":
        one = [[id_] for id_ in [*LARGE, *SMALL]]
        return one, [[id_] for id_ in [*SMALL, *LARGE]]
    first = [[SMALL[i], SMALL[i + 1]] for i in range(0, 8, 2)]
    second = [[SMALL[i], SMALL[8 - i]] for i in range(4)]
    return [*first, *([id_] for id_ in LARGE)], [*second, *([id_] for id_ in LARGE)]


def halves(change: str, per_s: float, seed: int) -> Halves:
    random_ = random.Random(seed)
    now = 0.0
    queries: list[list[tuple[Sequence[str], float]]] = []
    for groups in recruits(change):
        shares = [1.0 / (rank + 1) for rank in range(len(groups))]
        half: list[tuple[Sequence[str], float]] = []
        for group in random_.choices(groups, shares, k=N_QUERIES):
            now += random_.expovariate(per_s)
            half.append((group, now))
        queries.append(half)
    arrivals = [
        Arrival(at_s, expert_id, random_.gammavariate(4.0, 0.25))
        for group, at_s in [*queries[0], *queries[1]]
        for expert_id in group
    ]
    return Halves(queries[0], queries[1], arrivals)


def best_homes(queries: Queries) -> Homes:
    trace = trace_of([(group, at_s, None) for group, at_s in queries])
    return place(site(), Demand.of(trace), PlaceRules(exact_s=0.0)).homes


def compared(case: tuple[str, float, int]) -> dict[str, dict[str, float]]:
    """Every rule on one trace."""
    trace = halves(*case)
    first, second = best_homes(trace.first), best_homes(trace.second)
    middle_s = trace.second[0][1]
    rules: dict[str, Callable[[Site, Effects], SwapScheduler]] = {
        "free": lambda site, effects: SwapScheduler(site, effects, RULES),
        "fixed": lambda site, effects: Rebalanced(site, effects, RULES, math.inf, first),
        "following": lambda site, effects: Rebalanced(site, effects, RULES, EVERY_S, first),
        "online": lambda site, effects: Rebalanced(site, effects, RULES, EVERY_S),
        "known": lambda site, effects: Changed(site, effects, first, (middle_s, second)),
    }
    found = {}
    for rule, make in rules.items():
        run = Simulator(site(), ServiceModel(max_batch=8), make).run(trace.arrivals)
        found[rule] = summarize(run, 3).as_json()
    return found


def row(change: str, per_s: float, runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    names = ("loads", "mean_latency_s", "p99_latency_s")
    means = {
        rule: {name: round(statistics.fmean(r[rule][name] for r in runs), 3) for name in names}
        for rule in runs[0]
    }
    return {"change": change, "queries_per_s": per_s, "seeds": len(runs), "rules": means}


def main() -> None:
    cases = [(c, per_s) for c in ("popularity", "recruitment") for per_s in PER_S]
    with ProcessPoolExecutor(2) as pool:
        runs = list(pool.map(compared, [(*case, seed) for case in cases for seed in SEEDS]))
    n = len(SEEDS)
    rows = [row(*case, runs[i * n : (i + 1) * n]) for i, case in enumerate(cases)]
    RESULTS.write_text(json.dumps({"rebalance_s": EVERY_S, "rows": rows}, indent=2) + "\n")
    for one in rows:
        print(one["change"], one["queries_per_s"], one["rules"])


if __name__ == "__main__":
    main()
