"""Compares scorers: `python -m bench.scorers`; writes bench/results/scorers.json.

Fits on the train split of recorded MMLU-Pro answers (or of the scores of llmrouter_mix, whose
categories are its tasks), tunes within it, and judges once on test, with each question's category
given and without it. Fallback asks the next best expert while no answer can be read, three
experts at most. Rows that are not measured again are kept.
Time is of a single thread; on a busy machine the processor's time is the one to compare.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coe.encoders import default_encoder
from coe.eval.datasets import load_llmrouter_mix, load_mmlu_pro
from coe.eval.intervals import bootstrap_mean
from coe.eval.vectors import recorded_encoder
from coe.outcomes import OutcomeTable
from coe.routers.baselines import BestSingleScorer
from coe.routers.boosting import BoostingScorer
from coe.routers.calibration import expected_calibration_error
from coe.routers.category import CategoryScorer, CompositionScorer
from coe.routers.clusters import ClustersScorer
from coe.routers.ensemble import EnsembleScorer
from coe.routers.factorization import FactorizationScorer
from coe.routers.jitter import jitter_report
from coe.routers.linear import LinearScorer
from coe.routers.neighbors import NeighborsScorer
from coe.routers.pilots import PilotsScorer
from coe.routers.remembered import KnownTexts
from coe.routers.ridge import RidgeScorer
from coe.routing import Encoder, FloatArray, Scorer
from coe.types import Query

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "bench" / "results" / "scorers.json"
ENCODERS = ("minilm-recorded", "default")
POOLS = ("small", "all", "llmrouter-mix")
N_TIMED = 200
N_FALLBACK = 3

FITS: Mapping[str, Callable[[OutcomeTable, Encoder], Any]] = {
    "best-single": lambda table, _: BestSingleScorer.fit(table),
    "category": CategoryScorer.fit,
    "knn": NeighborsScorer.fit,
    "clusters": ClustersScorer.fit,
    "linear": LinearScorer.fit,
    "ridge": RidgeScorer.fit,
    "ensemble": EnsembleScorer.fit,
    "factorization": FactorizationScorer.fit,
    "composition": CompositionScorer.fit,
    "pilots (nearest)": lambda table, encoder: PilotsScorer.fit(table, encoder, "nearest"),
    "pilots (mean)": lambda table, encoder: PilotsScorer.fit(table, encoder, "mean"),
    "boosting": BoostingScorer.fit,
}
RANKS_ONLY = ("composition", "pilots (nearest)", "pilots (mean)")
"""Scores that are no probabilities, so that calibration has no meaning."""


def measure(
    fit: Callable[[OutcomeTable, Encoder], Any],
    train: OutcomeTable,
    test: OutcomeTable,
    encoder: Encoder,
    is_probability: bool,
) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    scorer = fit(train, encoder)
    row: dict[str, Any] = {
        "fit_s": round(time.perf_counter() - started, 2),
        "fit_cpu_s": round(time.process_time() - cpu, 2),
    }
    unnamed = [replace(query, category=None) for query in test.queries]
    for name, queries in (("given", test.queries), ("not_given", unnamed)):
        started = time.process_time()
        scores = scorer.score(queries)
        row[f"batch_cpu_s_{name}"] = round(time.process_time() - started, 2)
        row.update(_quality(name, scores, test, is_probability))
    row["route_ms_p50"] = _p50_ms(scorer, unnamed)
    row["settings"] = _settings(scorer)
    return row


def _quality(
    name: str, scores: FloatArray, test: OutcomeTable, is_probability: bool
) -> dict[str, Any]:
    # A cell without a record is a question the expert did not answer: no success here.
    outcomes = np.nan_to_num(test.scores)
    won = outcomes[np.arange(len(outcomes)), scores.argmax(axis=1)]
    interval = bootstrap_mean(won, np.random.default_rng(0))
    told: dict[str, Any] = {
        f"accuracy_{name}": round(100 * float(won.mean()), 2),
        f"interval_{name}": [round(100 * float(end), 1) for end in (interval.low, interval.high)],
    }
    if is_probability:
        told[f"ece_{name}"] = round(expected_calibration_error(scores, test.scores), 4)
    if test.answers is not None:
        fallback, calls = _with_fallback(scores, test)
        told[f"fallback_accuracy_{name}"] = round(100 * float(fallback.mean()), 2)
        told[f"fallback_calls_{name}"] = round(calls, 3)
    return told


def _with_fallback(scores: FloatArray, test: OutcomeTable) -> tuple[FloatArray, float]:
    """(n_queries,) outcomes, and the mean number of experts asked."""
    assert test.answers is not None
    unread = np.array([[answer is None for answer in row] for row in test.answers])
    outcomes, rows = np.nan_to_num(test.scores), np.arange(test.n_queries)
    won, asking, n_calls = np.zeros(len(rows)), np.ones(len(rows), dtype=bool), 0
    for expert in np.argsort(-scores, axis=1, kind="stable").T[:N_FALLBACK]:
        n_calls += int(asking.sum())
        won[asking] = outcomes[rows, expert][asking]
        asking &= unread[rows, expert]
    return won, n_calls / len(rows)


def _p50_ms(scorer: Scorer, queries: Sequence[Query]) -> float:
    times = []
    for query in queries[:N_TIMED]:
        before = time.perf_counter()
        scorer.score([query])
        times.append(1e3 * (time.perf_counter() - before))
    return round(float(np.median(times)), 3)


def _settings(scorer: Any) -> dict[str, Any]:
    kept: tuple[str, ...] = (
        "c",
        "k",
        "n_clusters",
        "smoothing",
        "nearest",
        "max_doubt",
        "general_expert",
    )
    kept += ("penalty", "held_out_outcome", "held_out_ece", "n_pilots", "weights")
    told = scorer.artifact().manifest.settings
    return {name: told[name] for name in kept if name in told}


def _jitter(table: OutcomeTable, encoder: Encoder) -> dict[str, float]:
    report = jitter_report(table, encoder.encode([query.text for query in table.queries]))
    names = ("k", "best_expert", "best_expert_shuffled", "category", "category_shuffled")
    return {name: round(getattr(report, name), 4) for name in (*names, "tie_rate")}


def _table(data: Path, pool: str, split: str) -> OutcomeTable:
    if pool == "llmrouter-mix":
        return load_llmrouter_mix(data / "llmrouter_mix", split).table
    return load_mmlu_pro(data / "mmlu_pro", split, pool).table


def _encoder(name: str, train: OutcomeTable, test: OutcomeTable) -> Encoder:
    """The texts are encoded beforehand, so that times are the scorer's own."""
    if name == "minilm-recorded":
        return recorded_encoder(train, test)
    texts = [query.text for query in (*train.queries, *test.queries)]
    return KnownTexts(default_encoder(), texts)


def _print_table(rows: Mapping[str, Any]) -> None:
    print("| encoder / pool | scorer | given | not given | fallback | ECE | fit CPU s | p50 ms |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for place, by_scorer in rows.items():
        for name, row in by_scorer.items():
            if name != "jitter":
                cells = [row["accuracy_given"], row["accuracy_not_given"]]
                cells += [row.get("fallback_accuracy_given", "—")]
                cells += [row.get("ece_given", "—"), row["fit_cpu_s"], row["route_ms_p50"]]
                print(f"| {place} | {name} |", " | ".join(str(cell) for cell in cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, choices=ENCODERS)
    parser.add_argument("--pools", nargs="+", default=POOLS, choices=POOLS)
    parser.add_argument("--scorers", nargs="+", default=tuple(FITS), choices=tuple(FITS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for pool in arguments.pools:
        train, test = (_table(arguments.data, pool, split) for split in ("train", "test"))
        for encoder_name in arguments.encoders:
            encoder = _encoder(encoder_name, train, test)
            place = rows.setdefault(f"{encoder_name} / {pool}", {})
            place["jitter"] = _jitter(train, encoder)
            for name in arguments.scorers:
                is_probability = name not in RANKS_ONLY
                place[name] = measure(FITS[name], train, test, encoder, is_probability)
                print(pool, encoder_name, name, json.dumps(place[name]), flush=True)
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    _print_table(rows)


if __name__ == "__main__":
    main()
