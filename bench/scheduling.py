"""Swapping rules side by side in the simulator: `python -m bench.scheduling`.

Every rule sees the same traces in the same run; ratios are of mean latencies, over seeds that
were not used to choose any constant. With `--data FOLDER` (recorded MMLU-Pro answers) one more
trace has the experts that a fitted router assigned. Writes bench/results/scheduling.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.encoders.recorded import RecordedEncoder
from coe.eval.datasets import load_mmlu_pro
from coe.routers.balance import exact_assignment
from coe.routers.neighbors import NeighborsScorer
from coe.scheduling import Effects, Scheduler, Site, SwapCosts, SwapRules, SwapScheduler, Tenant
from coe.scheduling.metrics import Summary, summarize
from coe.scheduling.peers import Fifo, LlamaSwap, LlamaSwapLru, Lru, Ollama, RayMultiplex
from coe.scheduling.recording import RecordingEffects
from coe.scheduling.service_model import ServiceModel
from coe.scheduling.simulator import Simulator
from coe.scheduling.terms import Ticket
from coe.scheduling.traces import (
    Arrival,
    Load,
    all_at_once,
    bursts,
    cyclic,
    hot_shares,
    poisson,
    recorded,
    zipf_shares,
)

RESULTS = Path(__file__).resolve().parent / "results" / "scheduling.json"
IDS = [f"expert-{i:02}" for i in range(16)]
MAX_WAIT_S = {0.3: 100.0, 2.6: 300.0, 45.0: 3000.0}
"""The age bound grows with the swap: no rule can visit 16 experts faster than they load."""
N_ARRIVALS = {0.3: 2000, 2.6: 2500, 45.0: 8000}
SEEDS = {0.3: (1, 2, 3), 2.6: (1, 2, 3), 45.0: (1, 2)}
LOADS = (0.5, 0.7, 0.9)
PEERS: dict[str, Callable[[Site, Effects], Scheduler]] = {
    "fifo": Fifo,
    "ollama": Ollama,
    "ray": RayMultiplex,
    "lru": Lru,
    "llama-swap": LlamaSwap,
    "llama-swap-lru": LlamaSwapLru,
}


def site(swap_s: float, n_slots: int, batch: int, ids: Sequence[str] = IDS) -> Site:
    costs = SwapCosts(load_s=swap_s, wake_s=swap_s, sleep_s=0.0, evict_s=0.0)
    tenants = tuple(Tenant(id_, 1.0, costs=costs, max_in_flight=batch) for id_ in ids)
    return Site({"gpu": float(n_slots)}, tenants)


def ours(swap_s: float, max_wait_s: float | None = None) -> Callable[[Site, Effects], Scheduler]:
    rules = SwapRules(max_wait_s=max_wait_s or MAX_WAIT_S[swap_s])
    return lambda site, effects: SwapScheduler(site, effects, rules)


def traces(
    load: Load, hot: Load, seed: int, assigned: Sequence[str]
) -> Iterator[tuple[str, list[Arrival]]]:
    yield "poisson", poisson(IDS, zipf_shares(16, 0.0), load, seed)
    yield "zipf", poisson(IDS, zipf_shares(16), load, seed)
    yield "bursts", bursts(IDS, load, seed)
    yield "cyclic", cyclic(IDS, load, seed)
    yield "hot", poisson(IDS, hot_shares(16), hot, seed)
    if assigned:
        order = list(assigned)
        random.Random(seed).shuffle(order)
        yield "recorded", recorded(order, load, seed)


def compared(case: tuple[int, float, float, int, Sequence[str]]) -> list[dict[str, Any]]:
    """All traces of one batch size, swap time, load and seed, under every rule."""
    batch, swap_s, load_share, seed, assigned = case
    model = ServiceModel(max_batch=batch)
    per_s = load_share * 2 * model.throughput
    # The hot expert has one slot to itself at most, so it sets the rate that can be served.
    hot = Load(N_ARRIVALS[swap_s], load_share * model.throughput / 0.95)
    rows = []
    for name, trace in traces(Load(N_ARRIVALS[swap_s], per_s), hot, seed, assigned):
        ids = IDS if name != "recorded" else sorted(set(assigned))
        rules = {"ours": ours(swap_s), **PEERS}
        summaries = {
            rule: summarize(Simulator(site(swap_s, 2, batch, ids), model, make).run(trace), 2)
            for rule, make in rules.items()
        }
        rows.append(
            {
                "trace": name,
                "batch": batch,
                "swap_s": swap_s,
                "load": load_share,
                "seed": seed,
                "rules": {rule: summary.as_json() for rule, summary in summaries.items()},
            }
        )
    return rows


def assigned_experts(folder: Path) -> list[str]:
    """The experts that a router fitted on train gives test queries, none above its share twice."""
    train, test = (load_mmlu_pro(folder, split, "small") for split in ("train", "test"))
    vectors: dict[str, NDArray[np.floating]] = {}
    for half in (train.table, test.table):
        if half.vectors is None:
            raise SystemExit(f"{folder} has no recorded embeddings")
        vectors.update(zip((q.text for q in half.queries), half.vectors, strict=True))
    scorer = NeighborsScorer.fit(train.table, RecordedEncoder("recorded", vectors), k=160)
    queries = list(test.table.queries)[::4]
    scores = scorer.score(queries)
    n_experts = scores.shape[1]
    capacities = np.full(n_experts, -(-2 * len(queries) // n_experts))
    return [scorer.expert_ids[column] for column in exact_assignment(scores, capacities)]


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per trace and setting: means over seeds, and ours as a share of each peer's."""
    keys = ("trace", "batch", "swap_s", "load")
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row["rules"])
    table = []
    for key, runs in found.items():
        mean = {
            rule: statistics.fmean(run[rule]["mean_latency_s"] for run in runs) for rule in runs[0]
        }
        ours_ = [run["ours"] for run in runs]
        table.append(
            dict(zip(keys, key, strict=True))
            | {
                "ours_mean_s": round(mean["ours"], 3),
                "ours_p99_s": round(statistics.fmean(run["p99_latency_s"] for run in ours_), 3),
                "ours_max_age_s": round(max(run["max_age_s"] for run in ours_), 3),
                "ours_swap_share": round(statistics.fmean(run["swap_share"] for run in ours_), 4),
                "ours_busy_share": round(statistics.fmean(run["busy_share"] for run in ours_), 4),
                "ratio": {rule: round(mean["ours"] / mean[rule], 3) for rule in PEERS},
                "p99_ratio": {rule: _tail_ratio(runs, rule, "p99_latency_s") for rule in PEERS},
                "max_age_ratio": {rule: _tail_ratio(runs, rule, "max_age_s") for rule in PEERS},
                "ratio_range": {
                    rule: [
                        round(
                            value(
                                r["ours"]["mean_latency_s"] / r[rule]["mean_latency_s"]
                                for r in runs
                            ),
                            3,
                        )
                        for value in (min, max)
                    ]
                    for rule in PEERS
                },
            }
        )
    return table


def _tail_ratio(runs: Sequence[dict[str, Any]], rule: str, figure: str) -> float:
    ours_, theirs = (statistics.fmean(run[who][figure] for run in runs) for who in ("ours", rule))
    return round(ours_ / theirs, 3)


def cheap_swaps(seeds: Sequence[int] = tuple(range(1, 9))) -> list[dict[str, Any]]:
    """Swaps of tenths of a second, five experts in steady demand and one hardly asked for.

    Shares, swaps, batches and room are those of `bench.zoo_swaps`; the scheduler's first guesses
    of how long a service takes are as wrong as there.
    """
    shares = {"a": 128, "b": 120, "c": 119, "d": 118, "e": 108, "rare": 7}
    costs = SwapCosts(load_s=0.06, evict_s=0.24)
    small = Site({"cpu": 2.0}, tuple(Tenant(i, 1.0, costs=costs, max_in_flight=16) for i in shares))
    model, total = ServiceModel(max_batch=16), sum(shares.values())
    rules: dict[str, Callable[[Site, Effects], Scheduler]] = {
        "ours": SwapScheduler,
        "lru": Lru,
        "llama-swap": LlamaSwap,
        "llama-swap-lru": LlamaSwapLru,
    }
    rows = []
    for per_s in (10.0, 15.0, 20.0, 30.0):
        load = Load(600, per_s, work_s=0.15)
        weights = [share / total for share in shares.values()]
        traces_ = [poisson(list(shares), weights, load, seed) for seed in seeds]
        for rule, make in rules.items():
            runs = [summarize(Simulator(small, model, make).run(t), 2) for t in traces_]
            rows.append(
                {
                    "per_s": per_s,
                    "rule": rule,
                    "loads": statistics.fmean(run.loads for run in runs),
                    "mean_s": round(statistics.fmean(run.mean_latency_s for run in runs), 3),
                    "p99_s": round(statistics.fmean(run.p99_latency_s for run in runs), 3),
                    "mean_max_age_s": round(statistics.fmean(run.max_age_s for run in runs), 3),
                    "max_age_s": round(max(run.max_age_s for run in runs), 3),
                }
            )
    return rows


def hot_traces(seed: int) -> Iterator[tuple[str, float, list[Arrival]]]:
    """Name, age bound and trace: one expert of four is asked for nearly always, on one slot.

    Three are random. In the last the hot expert is asked every 0.9 s for 1 s of work: hardly
    loaded, and never idle.
    """
    ids, throughput = IDS[:4], ServiceModel(max_batch=8).throughput
    for hot, share, max_wait_s in ((0.95, 0.9, 300.0), (0.98, 0.9, 300.0), (0.98, 0.95, 600.0)):
        load = Load(10_000, share * throughput)
        name = f"{hot:.0%} hot, load {share}"
        yield name, max_wait_s, poisson(ids, hot_shares(4, hot), load, seed)
    steady = [Arrival(0.9 * i, ids[0], 1.0) for i in range(3000)]
    rare = poisson(ids[1:], zipf_shares(3, 0.0), Load(90, 1 / 30), seed)
    both = sorted([*steady, *rare], key=lambda arrival: arrival.at_s)
    yield "never idle, load 0.24", 60.0, both


def age_bound(seeds: Sequence[int] = (1, 2, 3)) -> list[dict[str, Any]]:
    """Who keeps the others from starving? The goal is max_wait + 2 (swap + quantum)."""
    rows = []
    quantum_s = max(SwapRules().quantum_s, SwapRules().quantum_swaps * 2.6)
    for seed in seeds:
        for name, max_wait_s, trace in hot_traces(seed):
            rules: dict[str, Callable[[Site, Effects], Scheduler]] = {
                "ours": ours(2.6, max_wait_s),
                "llama-swap": LlamaSwap,
                "llama-swap-lru": LlamaSwapLru,
            }
            model, small = ServiceModel(max_batch=8), site(2.6, 1, 8, IDS[:4])
            summaries: dict[str, Summary] = {
                rule: summarize(Simulator(small, model, make).run(trace), 1)
                for rule, make in rules.items()
            }
            rows.append(
                {
                    "trace": name,
                    "seed": seed,
                    "max_wait_s": max_wait_s,
                    "bound_s": max_wait_s + 2 * (2.6 + quantum_s),
                    "max_age_s": {r: round(s.max_age_s, 1) for r, s in summaries.items()},
                    "mean_s": {r: round(s.mean_latency_s, 2) for r, s in summaries.items()},
                }
            )
    return rows


class Echo(RecordingEffects):
    """Answers every effect a moment later, as fast as the caller asks."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[str, Any]] = []

    def load(self, expert_id: str, devices: Sequence[str]) -> None:
        self.due.append(("on_loaded", expert_id))

    def evict(self, expert_id: str) -> None:
        self.due.append(("on_evicted", expert_id))

    def grant(self, ticket: Ticket) -> bool:
        self.due.append(("on_finish", ticket))
        return True


def event_costs(n_queued: int, n_experts: int = 16, n_events: int = 20_000) -> dict[str, float]:
    """Microseconds an event with so many tickets waiting.

    Every third event is an arrival, every third the cancelling of some ticket, and the rest
    are the ends of what the scheduler began, so that the queue stays about as long. Ticks come
    when the scheduler has asked for them.
    """
    ids = [f"expert-{i:03}" for i in range(n_experts)]
    effects = Echo()
    scheduler = SwapScheduler(site(2.6, 2, 8, ids), effects, SwapRules(max_queued=10**8))
    random_ = random.Random(0)
    waiting = [Ticket(str(i), random_.choice(ids), random_.randint(0, 2)) for i in range(n_queued)]
    for i, ticket in enumerate(waiting):
        scheduler.on_arrival(i * 1e-6, ticket)
    gc.collect()
    gc.disable()
    spent: dict[str, list[int]] = {}
    now = 3.0
    for i in range(n_events):
        now += 0.01
        name, about = ("on_arrival", Ticket(f"new{i}", random_.choice(ids), random_.randint(0, 2)))
        if i % 3 == 1:
            name, about = "on_cancel", waiting[random_.randrange(len(waiting))]
        elif i % 3 == 2 and effects.due:
            name, about = effects.due.pop(0)
        wakeup_s = scheduler.next_wakeup()
        if wakeup_s is not None and wakeup_s <= now:
            began = time.perf_counter_ns()
            scheduler.on_tick(now)
            spent.setdefault("on_tick", []).append(time.perf_counter_ns() - began)
        event = getattr(scheduler, name)
        began = time.perf_counter_ns()
        event(now, about)
        spent.setdefault(name, []).append(time.perf_counter_ns() - began)
    gc.enable()
    every = [ns for times in spent.values() for ns in times]
    costs = {f"{name}_us": statistics.fmean(times) / 1e3 for name, times in spent.items()}
    costs |= {
        "mean_us": statistics.fmean(every) / 1e3,
        "p50_us": statistics.median(every) / 1e3,
        "p99_us": sorted(every)[int(0.99 * len(every))] / 1e3,
    }
    return {"n_queued": n_queued, "n_experts": n_experts} | {
        name: round(value, 2) for name, value in costs.items()
    }


def batch_loads(seed: int = 1) -> dict[str, int]:
    """5,000 requests at once for 16 experts: the lower bound is one load each."""
    random_ = random.Random(seed)
    chosen = random_.choices(IDS, weights=zipf_shares(16), k=5000)
    trace = all_at_once([(id_, chosen.count(id_)) for id_ in IDS], work_s=0.1)
    model = ServiceModel(max_batch=8)
    rules = {"ours": ours(2.6, 10_000.0), **PEERS}
    loads = {
        rule: Simulator(site(2.6, 2, 8), model, make).run(trace).loads
        for rule, make in rules.items()
        if rule not in ("ray", "ollama")
    }
    return {"lower_bound": 16, **loads}


def small_optima(n_instances: int = 200) -> dict[str, Any]:
    """Mean latency over the offline optimum: 7 requests, 3 experts, one slot, one at a time.

    The optimum knows all arrivals in advance and chooses the best of all orders. Once it may
    also load before anybody asks, once a load begins when its request has come, as ours does.
    """
    ids = IDS[:3]
    found: dict[str, list[float]] = {"may_load_ahead": [], "loads_on_request": []}
    for seed in range(1000, 1000 + n_instances):
        trace = poisson(ids, zipf_shares(3), Load(7, 0.5, spread=0.5), seed)
        run = Simulator(site(2.6, 1, 1, ids), ServiceModel(max_batch=1), ours(2.6)).run(trace)
        mean_s = summarize(run, 1).mean_latency_s
        for name, ratios in found.items():
            ahead = name == "may_load_ahead"
            best = min(_latency(order, 2.6, ahead) for order in permutations(trace))
            ratios.append(mean_s / best)
    return {"instances": n_instances} | {
        name: {
            "mean": round(statistics.fmean(ratios), 4),
            "p95": round(sorted(ratios)[int(0.95 * n_instances)], 4),
            "worst": round(max(ratios), 4),
            "share_within_1.5": round(sum(r <= 1.5 for r in ratios) / n_instances, 4),
        }
        for name, ratios in found.items()
    }


def _latency(order: Sequence[Arrival], swap_s: float, ahead: bool) -> float:
    now, resident, total = 0.0, "", 0.0
    for arrival in order:
        if arrival.expert_id != resident:
            now = (now if ahead else max(now, arrival.at_s)) + swap_s
        now = max(now, arrival.at_s) + arrival.work_s
        resident = arrival.expert_id
        total += now - arrival.at_s
    return total / len(order)


def show(table: Sequence[dict[str, Any]]) -> None:
    print("mean latency, ours as a share of each rule's")
    print("batch swap_s load trace     ours_s   " + "".join(f"{rule:>15}" for rule in PEERS))
    for row in sorted(table, key=lambda r: (r["batch"], r["swap_s"], r["load"])):
        ratios = "".join(f"{row['ratio'][rule]:15.3f}" for rule in PEERS)
        print(
            f"{row['batch']:5} {row['swap_s']:6} {row['load']:4} {row['trace']:9}"
            f"{row['ours_mean_s']:8.2f} {ratios}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of recorded MMLU-Pro answers")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    assigned = assigned_experts(arguments.data) if arguments.data else []
    cases = [
        (batch, swap_s, load, seed, assigned)
        for batch, swap_s, load in (
            *((8, swap_s, load) for swap_s in MAX_WAIT_S for load in LOADS),
            *((1, swap_s, 0.7) for swap_s in (0.3, 2.6)),
        )
        for seed in SEEDS[swap_s]
    ]
    costs = [event_costs(10**4), event_costs(10**6), event_costs(10**4, n_experts=256)]
    with ProcessPoolExecutor(arguments.processes) as executor:
        rows = [row for rows in executor.map(compared, cases) for row in rows]
    result: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "table": grouped(rows),
        "age_bound": age_bound(),
        "event_costs": costs,
        "cheap_swaps": cheap_swaps(),
        "batch_loads": batch_loads(),
        "small_optima": small_optima(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    show(grouped(rows))
    for row in result["age_bound"]:
        print(f"oldest, {row['trace']}, bound {row['bound_s']:.0f} s: {row['max_age_s']}")
    for row in result["cheap_swaps"]:
        print(json.dumps(row))
    for part in ("event_costs", "batch_loads", "small_optima"):
        print(part, json.dumps(result[part]))


if __name__ == "__main__":
    main()
