"""P5: answers and memory over many cycles of sleeping and waking.

    python -m bench.gpu.p5 --python VENV/bin/python --model A --model B --model C --cycles 100

For every model and both levels, with the prefix cache on: greedy answers before and after,
device memory while asleep against the first cycle (target: within 0.5 GiB), host memory after
the last cycle against the first (target: less than 1 % more). Restarts that the engine needed to
get a right answer are counted: a run that needs them has met a defect and survived it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.gpu.common import PATIENCE_S, PROMPT, Bench, ask, options, quantiles, run, stopping
from coe.engines.family import resident_gib
from coe.engines.vllm import VllmEngine
from coe.errors import EngineError


async def measure(bench: Bench) -> dict[str, Any]:
    n_cycles = 3 if bench.is_dry else bench.options.cycles
    rows = {}
    for level in (1, 2):
        for number, model in enumerate(bench.models):
            engine = bench.engine(
                f"p5-{number}", model, sleep_level=level, flags={"enable-prefix-caching": True}
            )
            async with stopping(engine):
                rows[f"{model} level {level}"] = await _cycles(engine, n_cycles)
    return {"cycles": n_cycles, "experts": rows}


async def _cycles(engine: VllmEngine, n_cycles: int) -> dict[str, Any]:
    await engine.ensure_ready(PATIENCE_S)
    prompts = [PROMPT.format(number) for number in range(4)]
    expected = [(await ask(engine, prompt)).text for prompt in prompts]
    pids = {await _pid(engine)}
    residues_gib: list[float] = []
    hosts_gib: list[float] = []
    n_wrong = n_failed_sleeps = 0
    for _ in range(n_cycles):
        try:
            residue = await engine.sleep(300.0)
            residues_gib += [residue] if residue is not None else []
        except EngineError:
            n_failed_sleeps += 1
        await engine.ensure_ready(PATIENCE_S)
        pids.add(await _pid(engine))
        hosts_gib += [await _host_gib(engine)]
        n_wrong += sum(
            [(await ask(engine, p)).text != e for p, e in zip(prompts, expected, strict=True)]
        )
    return {
        "n_wrong_answers": n_wrong,
        "n_failed_sleeps": n_failed_sleeps,
        "n_restarts": len(pids) - 1,
        "residue_gib": quantiles(residues_gib) if residues_gib else None,
        "residue_growth_gib": max(residues_gib) - residues_gib[0] if residues_gib else None,
        "host_gib": quantiles(hosts_gib),
        "host_growth": hosts_gib[-1] / hosts_gib[0] - 1 if hosts_gib[0] else None,
    }


async def _pid(engine: VllmEngine) -> int:
    async with engine.running() as server:
        return server.pid


async def _host_gib(engine: VllmEngine) -> float:
    async with engine.running() as server:
        return resident_gib(server.pids()) or 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("p5", __doc__)
    parser.add_argument("--cycles", type=int, default=100)
    run("p5", parser, measure, arguments)


if __name__ == "__main__":
    main()
