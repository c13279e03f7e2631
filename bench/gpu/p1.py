"""P1: a level-1 swap against the floor that the bus sets.

    python -m bench.gpu.p1 --python VENV/bin/python --model DIR --cycles 50

The floor is the bytes of the weights over the bandwidth from pinned host memory, which is
measured here. Target: p50 of waking <= 1.5 x floor + 0.2 s, and a first token after a wake
within 1.2 x of the steady one.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from typing import Any

from bench.gpu.common import (
    PATIENCE_S,
    PROMPT,
    Bench,
    ask,
    options,
    quantiles,
    run,
    seconds,
    stopping,
    weight_bytes,
)

_BANDWIDTH = """
import time, torch
host = torch.empty(2 << 30, dtype=torch.uint8, pin_memory=True)
device = torch.empty_like(host, device="cuda")
rates = []
for _ in range(6):
    torch.cuda.synchronize()
    started = time.perf_counter()
    device.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    rates.append(host.numel() / (time.perf_counter() - started))
print(sorted(rates)[3])
"""


async def measure(bench: Bench) -> dict[str, Any]:
    model = bench.models[0]
    n_cycles = 3 if bench.is_dry else bench.options.cycles
    rate = None if bench.is_dry else await asyncio.to_thread(_bandwidth, bench.options.python)
    engine = bench.engine("p1", model)
    sleeps_s: list[float] = []
    wakes_s: list[float] = []
    firsts_s: list[float] = []
    steady_s: list[float] = []
    async with stopping(engine):
        cold_s = await seconds(engine.ensure_ready(PATIENCE_S))
        await ask(engine, PROMPT.format("warm"))
        for cycle in range(n_cycles):
            sleeps_s.append(await seconds(engine.sleep(120.0)))
            wakes_s.append(await seconds(engine.ensure_ready(120.0)))
            firsts_s.append(await _ttft(engine, cycle, 0))
            steady_s.extend([await _ttft(engine, cycle, turn) for turn in range(1, 4)])
    size = weight_bytes(model)
    floor_s = size / rate if size and rate else None
    wake = quantiles(wakes_s)
    first, steady = quantiles(firsts_s), quantiles(steady_s)
    target_s = 1.5 * floor_s + 0.2 if floor_s is not None else None
    return {
        "cold_start_s": cold_s,
        "weight_bytes": size,
        "h2d_bytes_per_s": rate,
        "floor_s": floor_s,
        "target_s": target_s,
        "sleep_s": quantiles(sleeps_s),
        "wake_s": wake,
        "first_ttft_s": first,
        "steady_ttft_s": steady,
        "meets_wake_target": None if target_s is None else wake["p50"] <= target_s,
        "meets_ttft_target": first["p50"] <= 1.2 * steady["p50"],
    }


async def _ttft(engine: Any, cycle: int, turn: int) -> float:
    completion = await ask(engine, PROMPT.format(f"{cycle}.{turn}"), max_tokens=8)
    assert completion.timing is not None
    return completion.timing.ttft_s


def _bandwidth(python: str) -> float:
    done = subprocess.run([python, "-c", _BANDWIDTH], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("p1", __doc__)
    parser.add_argument("--cycles", type=int, default=50)
    run("p1", parser, measure, arguments)


if __name__ == "__main__":
    main()
