"""P4: how much of a load is seen if the next expert loads while the present one serves.

    python -m bench.gpu.p4 --python VENV/bin/python --model DIR1 --model DIR2 --gib 36

Both have to fit on the GPU together. Target: where serving takes as long as loading, a quarter
of the load or less is seen. The tokens that serving loses meanwhile are reported too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bench.gpu.common import PATIENCE_S, PROMPT, Bench, ask, options, run, seconds, stopping, tokens
from coe.engines.vllm import VllmEngine


async def measure(bench: Bench) -> dict[str, Any]:
    models = bench.models
    first = bench.engine("p4-first", models[0])
    second = bench.engine("p4-second", models[-1])
    rows: dict[str, Any] = {}
    async with stopping(first, second):
        await first.ensure_ready(PATIENCE_S)
        alone_s = await seconds(second.ensure_ready(PATIENCE_S))
        rows["load"] = {"alone_s": alone_s}
        await second.stop(60.0)
        rows["load"] |= await _hidden(first, second, alone_s)
        await second.sleep(120.0)
        alone_s = await seconds(second.ensure_ready(PATIENCE_S))
        rows["wake"] = {"alone_s": alone_s}
        await second.sleep(120.0)
        rows["wake"] |= await _hidden(first, second, alone_s)
    return rows


async def _hidden(serving: VllmEngine, coming: VllmEngine, alone_s: float) -> dict[str, float]:
    """Serves for as long as the load takes alone, with and then without a load beside it."""
    undisturbed = await _serve(serving, alone_s)
    started = time.perf_counter()
    bringing = asyncio.create_task(coming.ensure_ready(PATIENCE_S))
    disturbed = await _serve(serving, alone_s)
    served_at = time.perf_counter()
    await bringing
    visible_s = time.perf_counter() - served_at
    return {
        "total_s": time.perf_counter() - started,
        "visible_s": visible_s,
        "visible_share": visible_s / alone_s,
        "tokens_per_s_undisturbed": undisturbed,
        "tokens_per_s_beside_it": disturbed,
    }


async def _serve(engine: VllmEngine, for_s: float) -> float:
    """Tokens a second over at least so long, with sixteen requests under way."""
    started = time.perf_counter()
    n_tokens = 0

    async def client(number: int) -> None:
        nonlocal n_tokens
        while time.perf_counter() - started < for_s:
            n_tokens += tokens([await ask(engine, PROMPT.format(number))])

    await asyncio.gather(*(client(number) for number in range(16)))
    return n_tokens / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    run("p4", options("p4", __doc__, gib=36.0), measure, arguments)


if __name__ == "__main__":
    main()
