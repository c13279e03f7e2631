"""A file of questions for the zoo with room for two of its six experts.

`python -m bench.batch_plan` answers the same questions by plan, all at once under the online
rules, and in the order of the file with few in flight; with one expert a question, and with three
and then a referee. Experts are really loaded and freed. Writes bench/results/batch_plan.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.zoo_swaps import ROOM_GIB, ROOT, _warm
from coe.aggregation import First, MajorityVote, stated_answer
from coe.assembly import engines_for, load_planned, load_router
from coe.assembly.hosting import hosted, site_of
from coe.composition import Composition
from coe.config import ROUTED_MODEL, AggregatorConfig, Config, PolicyConfig, load_config
from coe.engines.base import Engine, collect
from coe.errors import CoeError
from coe.eval.datasets import QuestionSet, load_zoo
from coe.scheduling import SwapScheduler
from coe.scheduling.plan import Group, Stage
from coe.scheduling.planned_pool import PlannedPool, foreseen
from coe.scheduling.planner import plan
from coe.service.batches.journal import Journal
from coe.service.batches.lines import URL, read_requests
from coe.service.batches.running import BatchRun
from coe.types import Completion, GenerationRequest, Message

RESULTS = ROOT / "bench" / "results" / "batch_plan.json"
REFEREE = "generalist"


class Referee:
    """Asks one more expert once three have answered.

    What an LLM aggregator asks does not fit the contexts of the zoo; its turn is the same.
    """

    name = "referee"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._best = First(read=stated_answer)

    async def aggregate(
        self, request: GenerationRequest, completions: Sequence[tuple[str, Completion]]
    ) -> str:
        heard = await collect(REFEREE, self._engine.stream(request))
        return await self._best.aggregate(request, [*completions, (REFEREE, heard)])


def recruiting(config: Config) -> Config:
    """Three experts a question, and one that comes after them."""
    router = replace(
        config.router,
        policy=PolicyConfig("top-k", 3),
        aggregator=AggregatorConfig("llm", REFEREE),
    )
    return replace(config, router=router)


def loaded(config: Config) -> tuple[Composition, PlannedPool]:
    composition, pool = load_planned(config)
    assert pool is not None, "the zoo is hosted"
    if pool.writer is not None:
        composition.aggregator = Referee(composition.engines[REFEREE])
    return composition, pool


def online(config: Config) -> tuple[Composition, SwapScheduler]:
    """The same under the rules of `coe serve`."""
    engines, dispatcher = hosted(config, engines_for(config))
    assert dispatcher is not None, "the zoo is hosted"
    assert isinstance(dispatcher.scheduler, SwapScheduler)
    is_alone = config.router.aggregator.kind != "llm"
    aggregator = MajorityVote(read=stated_answer) if is_alone else Referee(engines[REFEREE])
    return Composition(load_router(config), engines, aggregator), dispatcher.scheduler


async def by_plan(config: Config, questions: QuestionSet) -> dict[str, Any]:
    """As `coe batch` does it, file and journal included."""
    composition, pool = loaded(config)
    with tempfile.TemporaryDirectory() as name:
        file = _written(Path(name), questions)
        requests = read_requests(file, (ROUTED_MODEL, *config.pool.ids))
        began_s = time.perf_counter()
        with Journal(Path(name) / "out.jsonl", file) as journal:
            await BatchRun(composition, ROUTED_MODEL, pool).answer(requests, journal)
        wall_s = time.perf_counter() - began_s
        lines = (Path(name) / "out.jsonl").read_bytes().splitlines()
    texts = [_text(json.loads(line)) for line in lines]
    return await _row(composition, pool.standing.n_swaps, questions, texts, wall_s)


async def in_file_order(config: Config, questions: QuestionSet, most: int) -> dict[str, Any]:
    """At most so many questions in flight, under the rules of `coe serve`."""
    composition, scheduler = online(config)
    free = asyncio.Semaphore(most)

    async def ask(text: str) -> str | None:
        request = GenerationRequest((Message("user", text),))
        async with free:
            try:
                return (await composition.complete(request, composition.decide(request))).text
            except CoeError:
                return None

    began_s = time.perf_counter()
    texts = await asyncio.gather(*(ask(query.text) for query in questions.queries))
    wall_s = time.perf_counter() - began_s
    return await _row(composition, scheduler.counts.loads, questions, texts, wall_s)


def bound(config: Config, questions: QuestionSet) -> int:
    """Loads that no plan can do without."""
    composition, pool = loaded(config)
    site = site_of(config)
    assert site is not None, "the zoo is hosted"
    requests = [GenerationRequest((Message("user", q.text),)) for q in questions.queries]
    decisions = [composition.decide(request) for request in requests]
    stages = foreseen([decision.experts for decision in decisions], pool.writer)
    groups = [tuple(Group(e, n, float(n)) for e, n in stage.items()) for stage in stages]
    return plan(site, [Stage(group) for group in groups]).bounds.n_loads


async def _row(
    composition: Composition,
    n_loads: int,
    questions: QuestionSet,
    texts: Sequence[str | None],
    wall_s: float,
) -> dict[str, Any]:
    await composition.stop()
    scores = [
        0.0 if text is None else questions.grade(query, text).score
        for query, text in zip(questions.queries, texts, strict=True)
    ]
    return {
        "loads": n_loads,
        "wall_s": round(wall_s, 2),
        "lost": sum(text is None for text in texts),
        "right": round(float(np.mean(scores)), 4),
    }


def _written(folder: Path, questions: QuestionSet) -> Path:
    file = folder / "in.jsonl"
    lines = [
        {
            "custom_id": f"q{i}",
            "method": "POST",
            "url": URL,
            "body": {
                "model": ROUTED_MODEL,
                "messages": [{"role": "user", "content": query.text}],
            },
        }
        for i, query in enumerate(questions.queries)
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def _text(line: dict[str, Any]) -> str | None:
    response = line["response"]
    if response["status_code"] != 200:
        return None
    text: str = response["body"]["choices"][0]["message"]["content"]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "experts.yaml")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--recruiting", type=int, default=150, help="Questions with three experts.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    config = replace(load_config(options.config), local_memory_gib=ROOM_GIB)
    every = load_zoo("test")
    order = np.random.default_rng(0).permutation(len(every.queries))
    # Importing torch is nobody's swap.
    asyncio.run(_warm(config))
    scenes = [("one expert", config, options.requests)]
    scenes.append(("three and a referee", recruiting(config), options.recruiting))
    rows: list[dict[str, Any]] = []
    for scene, of_scene, n in scenes:
        questions = replace(every, queries=tuple(every.queries[i] for i in order[:n]))
        least = bound(of_scene, questions)
        runs = {
            "planned": by_plan(of_scene, questions),
            "online, all at once": in_file_order(of_scene, questions, n),
            "in file order, 8 in flight": in_file_order(of_scene, questions, 8),
            "in file order, one by one": in_file_order(of_scene, questions, 1),
        }
        for name, run in runs.items():
            row = asyncio.run(run)
            rows.append({"scene": scene, "questions": n, "bound": least, "order": name, **row})
            print(rows[-1], flush=True)
    report = {
        "command": "python -m bench.batch_plan",
        "experts": len(config.pool),
        "room_gib": ROOM_GIB,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
