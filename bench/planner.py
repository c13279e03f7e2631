"""Measures the offline planner: `python -m bench.planner`; writes bench/results/planner.json.

A batch of 5,000 queries, three experts of sixteen each by a Zipf law, then an aggregator, then
the same for the 5 % that are retried. Experts are of one size or of several, and memory is for
so many experts of the mean size on each device. What the peers' ways of serving would load is
counted on the same assignments. Times are of the processor, the best of three runs, one thread.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coe.scheduling.expert_trace import ExpertTrace
from coe.scheduling.locality import analyze, lru_misses
from coe.scheduling.makespan import Job, balanced
from coe.scheduling.makespan_program import program_balance
from coe.scheduling.placement import Demand
from coe.scheduling.placing import PlaceRules, place
from coe.scheduling.plan import Group, Stage, Start, stage_of
from coe.scheduling.planner import PlanRules, plan
from coe.scheduling.prefix_order import prefix_order
from coe.scheduling.terms import Site, SwapCosts, Tenant

RESULTS = Path(__file__).resolve().parent / "results" / "planner.json"
N_QUERIES, N_EXPERTS, RECRUITED = 5_000, 16, 3
SIZES_GIB = (4.0, 8.0, 16.0, 24.0)
LOAD_S_PER_GIB = 1.0
SERVICE_S = 6.4
"""Of one request, sixty-four at a time: ten requests a second."""

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "batch": [batch(n, c, equal) for n in (1, 2, 4) for c in (1, 2, 4) for equal in (1, 0)],
        "one_stage": [one_stage(n, equal) for n in (1, 2, 4, 8) for equal in (1, 0)],
        "brute_force": brute_force(1000),
        "makespan": [makespan(n, n_machines) for n, n_machines in ((7, 2), (16, 4), (16, 8))],
        "prefix_order": prefixes(),
        "locality": [locality(n) for n in (16, 128)],
        "placement": [placement(n, d) for n, d in ((16, 2), (16, 4), (32, 8))],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, rows in report.items():
        show(name, rows if isinstance(rows, list) else [rows])


def show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{name}")
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def timed(work: Callable[[], T], times: int = 3) -> tuple[T, float]:
    """The result and the least processor seconds of several runs."""
    seconds = []
    for _ in range(times):
        begun = time.process_time()
        done = work()
        seconds.append(time.process_time() - begun)
    return done, min(seconds)


def site_of(n_devices: int, slots: int, equal: bool, service_s: float = SERVICE_S) -> Site:
    rng = random.Random(1)
    sizes = [13.0 if equal else rng.choice(SIZES_GIB) for _ in range(N_EXPERTS)]
    room = max(max(sizes), slots * sum(sizes) / N_EXPERTS)
    tenants = tuple(
        Tenant(
            f"e{i:02}",
            gib,
            costs=SwapCosts(load_s=LOAD_S_PER_GIB * gib),
            service_s=service_s,
            max_in_flight=64,
        )
        for i, gib in enumerate(sizes)
    )
    return Site({f"gpu{d}": room for d in range(n_devices)}, tenants)


def assignments(seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    ids = [f"e{i:02}" for i in range(N_EXPERTS)]
    shares = [1.0 / rank for rank in range(1, N_EXPERTS + 1)]
    return [rng.choices(ids, shares, k=RECRUITED) for _ in range(N_QUERIES)]


def batch(n_devices: int, slots: int, equal: int) -> dict[str, Any]:
    """Experts, aggregator, retries, aggregator again."""
    site = site_of(n_devices, slots, bool(equal))
    asked = assignments()
    retried = assignments(1)[: N_QUERIES // 20]

    def planned() -> Any:
        stages = [
            stage_of(asked, site, "experts"),
            stage_of([["e00"]] * len(asked), site, "aggregator"),
            stage_of(retried, site, "retries"),
            stage_of([["e00"]] * len(retried), site, "aggregator of retries"),
        ]
        return plan(site, stages)

    made, seconds = timed(planned)
    row = {
        "devices": n_devices,
        "slots": slots,
        "sizes": "equal" if equal else "unequal",
        "loads": made.n_loads,
        "loads_bound": made.bounds.n_loads,
        "load_s": made.load_s,
        "load_s_bound": made.bounds.load_s,
        "load_s_ratio": made.load_s / made.bounds.load_s,
        "seconds": made.seconds,
        "seconds_ratio": made.seconds / made.bounds.seconds,
        "plan_cpu_s": seconds,
    }
    one_by_one, swept = unplanned(site, asked, retried)
    return {**row, "loads_query_by_query": one_by_one, "loads_lru_by_stage": swept}


def unplanned(
    site: Site, asked: Sequence[Sequence[str]], retried: Sequence[Sequence[str]]
) -> tuple[int, int]:
    """Loads on one pool of the same memory under LRU: query after query, and stage by stage.

    Every stage has its experts in the same order.
    """
    index = {tenant.expert_id: i for i, tenant in enumerate(site.tenants)}
    sizes = np.array([tenant.gib for tenant in site.tenants])
    room = sum(site.devices.values())
    each = [index[e] for experts in [*asked, *retried] for e in [*experts, "e00"]]
    stages = [
        *sorted({index[e] for experts in asked for e in experts}),
        index["e00"],
        *sorted({index[e] for experts in retried for e in experts}),
        index["e00"],
    ]
    loads = [int(lru_misses(np.array(trace), sizes, [room])[0].sum()) for trace in (each, stages)]
    return loads[0], loads[1]


def one_stage(n_devices: int, equal: int) -> dict[str, Any]:
    site = site_of(n_devices, 2, bool(equal))
    stages = [stage_of(assignments(), site)]
    start = Start({"e00": ("gpu0",)})
    made, seconds = timed(lambda: plan(site, stages, start))
    whole = plan(site, stages, start, PlanRules(split_ratio=float("inf")))
    return {
        "devices": n_devices,
        "sizes": "equal" if equal else "unequal",
        "loads": made.n_loads,
        "loads_uncut": whole.n_loads,
        "loads_bound": whole.bounds.n_loads,
        "seconds": made.seconds,
        "seconds_ratio": made.seconds / made.bounds.seconds,
        "uncut_seconds_ratio": whole.seconds / whole.bounds.seconds,
        "plan_cpu_s": seconds,
    }


def brute_force(n: int) -> dict[str, Any]:
    """Small instances against a search of all orders and evictions."""
    equal, seconds = 0, 0.0
    for seed in range(n):
        site, stages, start = small(seed)
        made, took = timed(lambda s=site, g=stages, a=start: plan(s, g, a), 1)  # type: ignore[misc]
        seconds += took
        equal += abs(made.load_s - least_load_s(site, stages, frozenset(start.awake))) < 1e-6
    return {"instances": n, "equal": equal, "plan_cpu_ms": 1000 * seconds / n}


def small(seed: int) -> tuple[Site, list[Stage], Start]:
    rng = random.Random(seed)
    n = rng.randint(2, 7)
    sizes = [float(rng.randint(1, 8)) for _ in range(n)]
    room = rng.uniform(max(sizes), max(max(sizes), 0.8 * sum(sizes)))
    tenants = tuple(
        Tenant(f"e{i}", gib, costs=SwapCosts(load_s=rng.uniform(1, 9)))
        for i, gib in enumerate(sizes)
    )
    stages = [
        Stage(tuple(Group(f"e{i}", 1, 1.0) for i in rng.sample(range(n), rng.randint(1, n))))
        for _ in range(rng.randint(2, 4 if n < 6 else 3))
    ]
    awake: list[int] = []
    for i in rng.sample(range(n), n):
        if rng.random() < 0.4 and sum(sizes[j] for j in awake) + sizes[i] <= room:
            awake.append(i)
    return Site({"gpu": room}, tenants), stages, Start({f"e{i}": ("gpu",) for i in awake})


def least_load_s(site: Site, stages: Sequence[Stage], awake: frozenset[str]) -> float:
    """Dijkstra over (stage, who is served, who is resident)."""
    needs = [frozenset(group.expert_id for group in stage.groups) for stage in stages]
    queue: list[tuple[float, int, tuple[int, frozenset[str], frozenset[str]]]]
    queue = [(0.0, 0, (0, frozenset(), awake))]
    seen, pushed = set(), 0
    while True:
        cost, _, state = heapq.heappop(queue)
        if state in seen:
            continue
        seen.add(state)
        stage, served, resident = state
        if stage == len(stages):
            return cost
        served |= resident & needs[stage]
        after: list[tuple[float, tuple[int, frozenset[str], frozenset[str]]]] = []
        if served == needs[stage]:
            after.append((0.0, (stage + 1, frozenset(), resident)))
        else:
            free = site.devices["gpu"] - sum(t.gib for t in site.tenants if t.expert_id in resident)
            for tenant in site.tenants:
                one = frozenset({tenant.expert_id})
                if one <= resident:
                    after.append((0.0, (stage, served, resident - one)))
                elif tenant.gib <= free + 1e-9:
                    after.append((tenant.costs.load_s, (stage, served, resident | one)))
        for further_s, following in after:
            pushed += 1
            heapq.heappush(queue, (cost + further_s, pushed, following))


def makespan(n: int, n_machines: int) -> dict[str, Any]:
    """Fifty random sets of jobs, never cut, against the integer program where it is small."""
    rng = random.Random(0)
    gaps, behind, seconds = [], [], []
    for _ in range(50):
        jobs = [Job(rng.uniform(20, 300), (10.0,) * n_machines) for _ in range(n)]
        found, took = timed(lambda j=jobs: balanced(j, [0.0] * n_machines), 1)  # type: ignore[misc]
        gaps.append(found.gap)
        seconds.append(took)
        if n <= 7:
            best = program_balance(jobs, [0.0] * n_machines, 5.0)
            behind.append(found.makespan_s / best.makespan_s - 1.0)
    return {
        "jobs": n,
        "machines": n_machines,
        "mean_gap_to_bound": float(np.mean(gaps)),
        "max_gap_to_bound": max(gaps),
        "mean_behind_program": float(np.mean(behind)) if behind else None,
        "max_behind_program": max(behind) if behind else None,
        "cpu_ms": 1000 * float(np.mean(seconds)),
    }


def prefixes() -> dict[str, Any]:
    rng = random.Random(0)
    systems = ["You are a careful expert. " * rng.randint(5, 60) + str(i) for i in range(50)]
    texts = [rng.choice(systems) + str(rng.random()) * rng.randint(1, 40) for _ in range(100_000)]
    _, seconds = timed(lambda: prefix_order(texts))
    return {"requests": len(texts), "cpu_s": seconds}


def locality(n_experts: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, n_experts + 1)
    experts = rng.choice(n_experts, 1_000_000, p=shares / shares.sum())
    ids = tuple(map(str, range(n_experts)))
    n = len(experts)
    trace = ExpertTrace(ids, experts, np.arange(n), np.arange(n) * 0.1, np.full(n, np.nan))
    sizes = dict(zip(ids, rng.choice(SIZES_GIB, n_experts).tolist(), strict=True))
    sizes_gib = np.array(list(sizes.values()))
    budgets = np.linspace(sizes_gib.max(), sizes_gib.sum(), 8).tolist()
    _, lru_s = timed(lambda: lru_misses(experts, sizes_gib, budgets))
    found, all_s = timed(lambda: analyze(trace, sizes, sizes), 1)
    _, turns_s = timed(lambda: trace.turns(), 1)
    return {
        "events": n,
        "experts": n_experts,
        "lru_cpu_s": lru_s,
        "analyze_cpu_s": all_s,
        "turns_cpu_s": turns_s,
        "lru_miss_share_half_memory": found.memory[3].lru_misses / n,
        "belady_miss_share_half_memory": found.memory[3].belady_misses / n,
    }


def placement(n: int, n_devices: int) -> dict[str, Any]:
    """Memory for seven tenths of the experts; half of all pairs take turns."""
    rng = random.Random(0)
    tenants = tuple(
        Tenant(f"e{i:02}", gib, costs=SwapCosts(load_s=gib), service_s=2.0, max_in_flight=16)
        for i, gib in enumerate(rng.choices(SIZES_GIB, k=n))
    )
    room = 0.7 * sum(tenant.gib for tenant in tenants) / n_devices
    site = Site({f"gpu{d}": max(24.0, room) for d in range(n_devices)}, tenants)
    ids = [tenant.expert_id for tenant in tenants]
    turns = {pair: rng.uniform(0, 5) for pair in combinations(ids, 2) if rng.random() < 0.5}
    demand = Demand({e: rng.uniform(10, 2000) for e in ids}, turns)
    searched, search_s = timed(lambda: place(site, demand, PlaceRules(exact_s=0.0)), 1)
    exact, exact_s = timed(lambda: place(site, demand, PlaceRules(exact_s=20.0)), 1)
    return {
        "experts": n,
        "devices": n_devices,
        "search_objective_s": searched.objective_s,
        "search_gap": searched.gap,
        "search_cpu_s": search_s,
        "program_objective_s": exact.objective_s,
        "program_gap": exact.gap,
        "program_cpu_s": exact_s,
    }


if __name__ == "__main__":
    main()
