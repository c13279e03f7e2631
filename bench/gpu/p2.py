"""P2: cold starts and level-2 wakes with every loader of vLLM.

    python -m bench.gpu.p2 --python VENV/bin/python --model DIR --repeats 3

Target: the best loader's cold start is half of the default's or less. A loader that does not run
is reported with its error, never left out. Files are read cold only if the page cache is dropped
before the run; the report says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.gpu.common import Bench, options, quantiles, run, seconds, stopping
from coe.errors import CoeError

LOADERS = ("auto", "fastsafetensors", "instanttensor", "runai_streamer")


async def measure(bench: Bench) -> dict[str, Any]:
    n_repeats = 1 if bench.is_dry else bench.options.repeats
    table: dict[str, Any] = {}
    for loader in LOADERS:
        try:
            table[loader] = await _loader(bench, loader, n_repeats)
        except CoeError as error:
            table[loader] = {"error": str(error)[-800:]}
    ran = {name: row["cold_s"]["p50"] for name, row in table.items() if "cold_s" in row}
    best = min(ran, key=lambda name: ran[name]) if ran else None
    return {
        "is_page_cache_dropped": bench.options.cache_was_dropped,
        "loaders": table,
        "best": best,
        "best_of_default": ran[best] / ran["auto"] if best and "auto" in ran else None,
    }


async def _loader(bench: Bench, loader: str, n_repeats: int) -> dict[str, Any]:
    colds_s: list[float] = []
    wakes_s: list[float] = []
    for _ in range(n_repeats):
        engine = bench.engine("p2", bench.models[0], sleep_level=2, flags={"load-format": loader})
        async with stopping(engine):
            colds_s.append(await seconds(engine.ensure_ready(900.0)))
            await engine.sleep(120.0)
            wakes_s.append(await seconds(engine.ensure_ready(900.0)))
    return {"cold_s": quantiles(colds_s), "level_2_wake_s": quantiles(wakes_s)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("p2", __doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache-was-dropped", action="store_true")
    run("p2", parser, measure, arguments)


if __name__ == "__main__":
    main()
