"""The zoo with room for two of its six experts: `python -m bench.zoo_swaps`.

Mixed questions arrive at random; each rule of residency serves the same arrivals in the same run,
with the real experts, which are really loaded and freed. Writes bench/results/zoo_swaps.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coe.assembly import engines_for, load_router
from coe.assembly.hosting import site_of
from coe.config import Config, load_config
from coe.engines.base import collect
from coe.errors import CoeError
from coe.eval.datasets import QuestionSet, load_zoo
from coe.routing import RoutingDecision
from coe.scheduling import Effects, Site, SwapScheduler
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.peers import Fifo, LlamaSwap, Lru, Ollama
from coe.types import GenerationRequest, Message

RESULTS = Path(__file__).resolve().parent / "results" / "zoo_swaps.json"
ROOT = Path(__file__).resolve().parent.parent
ROOM_GIB = 0.0125
"""Two of the experts, the largest among them."""


class Counting(Dispatcher):
    """Counts the experts that it brought in."""

    n_loads = 0

    async def bring(self, expert_id: str, devices: Sequence[str]) -> None:
        self.n_loads += 1
        await super().bring(expert_id, devices)


Make = Callable[[Site, Effects], Any]
RULES: Mapping[str, Make] = {
    "coe": SwapScheduler,
    "fifo": Fifo,
    "lru": Lru,
    "llama-swap": LlamaSwap,
    "ollama": Ollama,
}


async def served(
    config: Config,
    make: Make,
    questions: QuestionSet,
    decisions: Sequence[RoutingDecision],
    arrivals_s: Sequence[float],
) -> dict[str, Any]:
    """One rule over all arrivals."""
    site = site_of(config)
    assert site is not None, "the zoo is hosted"
    engines = engines_for(config)
    dispatcher = Counting(engines, lambda effects: make(site, effects))
    hosted = {id_: HostedEngine(engine, dispatcher) for id_, engine in engines.items()}
    began_s = time.perf_counter()
    results = await asyncio.gather(
        *(
            _asked(hosted[decision.experts[0]], query.text, began_s + at_s)
            for query, decision, at_s in zip(questions.queries, decisions, arrivals_s, strict=True)
        )
    )
    wall_s = time.perf_counter() - began_s
    await asyncio.gather(*(engine.stop(10.0) for engine in engines.values()))
    graded = [
        questions.grade(query, text).score
        for query, (text, _) in zip(questions.queries, results, strict=True)
        if text is not None
    ]
    waits = np.array([latency_s for _, latency_s in results])
    return {
        "loads": dispatcher.n_loads,
        "wall_s": round(wall_s, 2),
        "mean_latency_s": round(float(waits.mean()), 3),
        "p50_latency_s": round(float(np.quantile(waits, 0.5)), 3),
        "p99_latency_s": round(float(np.quantile(waits, 0.99)), 3),
        "max_latency_s": round(float(waits.max()), 3),
        "lost": len(results) - len(graded),
        "right": round(float(np.mean(graded)), 4),
    }


async def _asked(engine: HostedEngine, text: str, at_s: float) -> tuple[str | None, float]:
    """The answer, None if there was none, and the seconds from arrival to its end."""
    await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
    request = GenerationRequest((Message("user", text),))
    try:
        answer: str | None = (await collect(engine.expert_id, engine.stream(request))).text
    except CoeError:
        answer = None
    return answer, time.perf_counter() - at_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "experts.yaml")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--rates", type=float, nargs="+", default=[15.0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    config = replace(load_config(options.config), local_memory_gib=ROOM_GIB)
    every = load_zoo("test")
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(every.queries), options.requests, replace=False)
    questions = replace(every, queries=tuple(every.queries[i] for i in chosen))
    hidden = [replace(query, category=None) for query in questions.queries]
    decisions = load_router(config).route_batch(hidden)
    # Importing torch is nobody's swap.
    asyncio.run(_warm(config))
    rows: list[dict[str, Any]] = []
    for rate in options.rates:
        arrivals_s = np.cumsum(rng.exponential(1.0 / rate, options.requests)).tolist()
        for number in range(options.rounds):
            for name, make in RULES.items():
                row = asyncio.run(served(config, make, questions, decisions, arrivals_s))
                rows.append({"rule": name, "rate": rate, "round": number, **row})
                print(rows[-1], flush=True)
    report = {
        "command": "python -m bench.zoo_swaps",
        "requests": options.requests,
        "experts": len(config.pool),
        "room_gib": ROOM_GIB,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


async def _warm(config: Config) -> None:
    engines = engines_for(config)
    await engines[config.pool.ids[0]].ensure_ready(120.0)
    await asyncio.gather(*(engine.stop(10.0) for engine in engines.values()))


if __name__ == "__main__":
    main()
