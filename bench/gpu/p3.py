r"""P3: many experts on one GPU, three of them and an aggregator for every question.

    python -m bench.gpu.p3 --python VENV/bin/python --model DIR1 --model DIR2 ... \
        --experts 16 --questions 1000

Three ways with the same questions: ours (all asked at once, sleeping experts, the scheduler
decides), grouped by expert with a process restart for each (what a script does), and question by
question in the order of arrival. The last is run on a sample and extrapolated; the report labels
it so. Models are dealt out to the experts in turn.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.gpu.common import (
    FAKE_GIB,
    PATIENCE_S,
    PROMPT,
    Bench,
    ask,
    options,
    run,
    stopping,
    tokens,
)
from coe.engines.vllm import VllmEngine
from coe.scheduling import Site, SwapCosts, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.types import Completion

K = 3
Question = tuple[str, tuple[str, ...]]


async def measure(bench: Bench) -> dict[str, Any]:
    chosen = bench.options
    n_experts, n_questions, n_sample = (
        (4, 12, 3) if bench.is_dry else (chosen.experts, chosen.questions, chosen.sample)
    )
    names = [f"expert-{number:02}" for number in range(n_experts)]
    questions = _questions(names, n_questions)
    ours = await _scheduled(bench, names, questions)
    restarts = await _restarted(bench, names, questions)
    fifo = await _in_order(bench, names, questions[:n_sample])
    fifo_s = fifo["wall_s"] * n_questions / n_sample
    return {
        "n_experts": n_experts,
        "n_questions": n_questions,
        "experts_per_question": K,
        "ours": ours,
        "grouped_with_restarts": restarts,
        "in_order_sample": fifo,
        "in_order_extrapolated_s": fifo_s,
        "times_faster_than_restarts": restarts["wall_s"] / ours["wall_s"],
        "times_faster_than_in_order_extrapolated": fifo_s / ours["wall_s"],
    }


def _questions(names: Sequence[str], n_questions: int) -> list[Question]:
    rng = random.Random(0)
    return [(PROMPT.format(n), tuple(rng.sample(list(names), K))) for n in range(n_questions)]


def _engines(bench: Bench, names: Sequence[str], level: int) -> dict[str, VllmEngine]:
    models = bench.models
    return {
        name: bench.engine(name, models[number % len(models)], sleep_level=level)
        for number, name in enumerate(names)
    }


async def _answered(engine_of: Callable[[str], Any], aggregator: str, question: Question) -> int:
    """Tokens generated for one question, its aggregation included."""
    text, experts = question
    answers = await asyncio.gather(*(ask(engine_of(expert), text) for expert in experts))
    final = await ask(engine_of(aggregator), _synthesis(text, answers))
    return tokens([*answers, final])


def _synthesis(text: str, answers: Sequence[Completion]) -> str:
    return "\n".join([text, *(answer.text for answer in answers), "Give the best answer."])


async def _scheduled(
    bench: Bench, names: Sequence[str], questions: Sequence[Question]
) -> dict[str, Any]:
    inner = _engines(bench, names, level=1)
    gib = FAKE_GIB if bench.is_dry else bench.options.gib
    room = 2 * FAKE_GIB if bench.is_dry else bench.options.room
    costs = SwapCosts(load_s=60.0, wake_s=1.0, sleep_s=1.0, evict_s=5.0)
    tenants = tuple(
        Tenant(name, gib, asleep_gib=gib, residue_gib=0.2, costs=costs, max_in_flight=256)
        for name in names
    )
    site = Site({"0": room}, tenants, host_gib=bench.options.host_gib)
    dispatcher = Dispatcher(inner, lambda effects: SwapScheduler(site, effects), PATIENCE_S)
    hosted = {name: HostedEngine(engine, dispatcher) for name, engine in inner.items()}
    started = time.perf_counter()
    try:
        counts = await asyncio.gather(
            *(_answered(hosted.__getitem__, names[0], question) for question in questions)
        )
    finally:
        await dispatcher.shut_down(60.0)
    wall_s = time.perf_counter() - started
    scheduler = dispatcher.scheduler
    assert isinstance(scheduler, SwapScheduler)
    return {
        "wall_s": wall_s,
        "tokens_per_s": sum(counts) / wall_s,
        "loads": scheduler.counts.loads,
        "wakes": scheduler.counts.wakes,
        "lower_bound_loads": len({e for _, experts in questions for e in experts} | {names[0]}),
    }


async def _restarted(
    bench: Bench, names: Sequence[str], questions: Sequence[Question]
) -> dict[str, Any]:
    engines = _engines(bench, names, level=0)
    answers: dict[tuple[int, str], Completion] = {}
    started = time.perf_counter()
    for name in names:
        mine = [n for n, (_, experts) in enumerate(questions) if name in experts]
        async with stopping(engines[name]):
            await engines[name].ensure_ready(PATIENCE_S)
            done = await asyncio.gather(*(ask(engines[name], questions[n][0]) for n in mine))
        answers |= {(n, name): completion for n, completion in zip(mine, done, strict=True)}
    async with stopping(engines[names[0]]):
        finals = await asyncio.gather(
            *(
                ask(engines[names[0]], _synthesis(text, [answers[n, e] for e in experts]))
                for n, (text, experts) in enumerate(questions)
            )
        )
    wall_s = time.perf_counter() - started
    n_tokens = tokens([*answers.values(), *finals])
    return {"wall_s": wall_s, "tokens_per_s": n_tokens / wall_s, "starts": len(names) + 1}


async def _in_order(
    bench: Bench, names: Sequence[str], questions: Sequence[Question]
) -> dict[str, Any]:
    engines = _engines(bench, names, level=0)
    started = time.perf_counter()
    n_starts = 0
    for text, experts in questions:
        answers = []
        for name in experts:
            async with stopping(engines[name]):
                answers.append(await ask(engines[name], text))
        async with stopping(engines[names[0]]):
            await ask(engines[names[0]], _synthesis(text, answers))
        n_starts += K + 1
    return {
        "wall_s": time.perf_counter() - started,
        "n_questions": len(questions),
        "starts": n_starts,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("p3", __doc__, gib=36.0)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=100, help="questions asked in order")
    parser.add_argument("--room", type=float, default=76.0, help="GiB of the GPU to be used")
    parser.add_argument("--host-gib", type=float, default=200.0, help="for sleeping experts")
    run("p3", parser, measure, arguments)


if __name__ == "__main__":
    main()
