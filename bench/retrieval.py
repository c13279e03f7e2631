"""Retrieval experts over bases and seeds: `python -m bench.retrieval --data DIR`.

`coe eval beir` measures one base and one seed; this says how much of a gain is luck, and what an
expert costs to train and to ask. Writes bench/results/retrieval.json; a base that is not given
keeps its rows of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coe.cli.beir import encoder_config
from coe.eval.beir import load_collections
from coe.eval.beir_report import gain_over
from coe.eval.beir_systems import (
    BASE,
    BM25,
    DATASET_ORACLE,
    EVERY_PILOT,
    INSTANCE_ORACLE,
    MULTITASK,
    ROUTED,
    Pool,
    measure,
    train_pool,
)
from coe.retrieval.cached import CachedEncoder
from coe.retrieval.domains import Domain
from coe.retrieval.retriever import RouterRetriever
from coe.retrieval.training import Recipe
from coe.routing import Encoder

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results" / "retrieval.json"
SYSTEMS = (
    BM25,
    BASE,
    MULTITASK,
    ROUTED,
    EVERY_PILOT,
    DATASET_ORACLE,
    INSTANCE_ORACLE,
)
N_TIMED = 200


def one_seed(domains: Sequence[Domain], base: Encoder, seed: int) -> tuple[dict[str, Any], Pool]:
    """Averages of every system, and the gains with their intervals."""
    pool = train_pool(domains, base, "train", Recipe(seed=seed))
    measured = measure(domains, pool, "test")
    trained = [*pool.experts.values(), pool.multitask]
    return {
        "seed": seed,
        "average_ndcg@10": {system: measured.mean(system) for system in SYSTEMS},
        "gain": {system: gain_over(measured, system) for system in (BASE, MULTITASK)},
        "train_s": [each.adapter.facts["train_s"] for each in trained],
    }, pool


def latency_ms(domain: Domain, pool: Pool, base: Encoder) -> dict[str, float]:
    """Of one query alone, median: encoded by the base, routed, and searched from text to ids."""
    retriever = RouterRetriever(base, pool.adapters(), pool.scorer, domain.library)
    queries = [query.text for query in domain.collection.queries[:N_TIMED]]
    retriever.search(queries, 10)
    timed: dict[str, Callable[[str], object]] = {
        "encode": lambda query: base.encode([query]),
        "route": lambda query: retriever.route([query]),
        "search": lambda query: retriever.search([query], 10),
    }
    found = {}
    for name, ask in timed.items():
        times = []
        for query in queries:
            started = time.perf_counter()
            ask(query)
            times.append(time.perf_counter() - started)
        found[name] = round(1000 * sorted(times)[len(times) // 2], 3)
    return found


def one_base(text: str, data: Path, seeds: int, cache: Path | None) -> dict[str, Any]:
    from coe.assembly import encoder_for

    plain = encoder_for(encoder_config(text))
    base = plain if cache is None else CachedEncoder(plain, cache)
    domains = [Domain.of(collection, base) for collection in load_collections(data)]
    rows = []
    for seed in range(seeds):
        row, pool = one_seed(domains, base, seed)
        rows.append(row)
        print(text, json.dumps(row["average_ndcg@10"]), flush=True)
    largest = max(domains, key=lambda domain: len(domain.collection.documents))
    return {
        "encoder": plain.name,
        "dim": plain.dim,
        "adapter_kb": round((plain.dim + 1) * plain.dim * 4 / 1000, 1),
        "documents": len(largest.collection.documents),
        "latency_ms": latency_ms(largest, pool, plain),
        "seeds": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure retrieval experts over bases and seeds.")
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--encoder", action="append", help="as coe eval beir takes it; several")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for text in arguments.encoder or ["static"]:
        found = one_base(text, arguments.data, arguments.seeds, arguments.cache)
        results[found["encoder"]] = found
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
