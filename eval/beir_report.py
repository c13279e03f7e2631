"""The measured systems as tables for people, in points of 100, and as JSON, in fractions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from coe.eval.beir_systems import (
    BASE,
    DATASET_ORACLE,
    INSTANCE_ORACLE,
    MULTITASK,
    ROUTED,
    Measured,
    Pool,
)
from coe.eval.intervals import bootstrap_mean
from coe.retrieval.training import Recipe

if TYPE_CHECKING:
    from rich.table import Table

PAPER: Mapping[str, float] = {
    BASE: 47.5,
    MULTITASK: 46.4,
    ROUTED: 49.6,
    DATASET_ORACLE: 50.9,
    INSTANCE_ORACLE: 57.6,
}
"""Average nDCG@10 in arXiv 2409.02685, on other collections, with Contriever and seven LoRA
experts. Its base row is the single expert trained on MS MARCO."""


def systems_table(measured: Measured, metric: str) -> Table:
    """Systems by collections, the average over collections, and for nDCG the paper's."""
    from rich.table import Table

    title = {"ndcg": "nDCG@10", "recall": "recall@100"}[metric]
    table = Table(title=f"{title} of the test queries, points", title_justify="left")
    table.add_column("system", no_wrap=True)
    for name in (*measured.collections, "average"):
        table.add_column(name, justify="right")
    if metric == "ndcg":
        table.add_column("paper", justify="right")
    for system in measured.systems:
        cells = [measured.of(system, name, metric) for name in measured.collections]
        row = [f"{100 * cell:.1f}" for cell in (*cells, measured.mean(system, metric))]
        if metric == "ndcg":
            row.append(f"{PAPER[system]:.1f}" if system in PAPER else "")
        table.add_row(system, *row, style="bold" if system == ROUTED else None)
    return table


def routed_table(measured: Measured) -> Table:
    """Where the queries of each collection were routed."""
    from rich.table import Table

    table = Table(title="Queries routed to each expert", title_justify="left")
    table.add_column("collection", no_wrap=True)
    for name in measured.expert_ids:
        table.add_column(name, justify="right")
    for name, counts in measured.routed.items():
        table.add_row(name, *(str(counts[expert]) for expert in measured.expert_ids))
    return table


def caption(measured: Measured) -> str:
    """What RouterRetriever gains, and how sure that is."""
    lines = []
    for system in (BASE, MULTITASK):
        gain = gain_over(measured, system)
        lines.append(
            f"{ROUTED} − {system}: {100 * gain['mean']:+.2f} points on average "
            f"(95 % {100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}); in the paper "
            f"{PAPER[ROUTED] - PAPER[system]:+.1f}"
        )
    return "\n".join(lines)


def gain_over(measured: Measured, system: str, seed: int = 0) -> dict[str, float]:
    """The mean over collections of the mean gain in nDCG@10, queries resampled in each of them."""
    rng = np.random.default_rng(seed)
    n_resamples = 2000
    means, draws = [], np.zeros(n_resamples)
    for name in measured.collections:
        gains = measured.systems[ROUTED][name].ndcg - measured.systems[system][name].ndcg
        means.append(float(gains.mean()))
        rows = rng.integers(len(gains), size=(n_resamples, len(gains)))
        draws += gains[rows].mean(axis=1) / len(measured.collections)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"mean": float(np.mean(means)), "low": float(low), "high": float(high)}


def beir_json(
    measured: Measured, pool: Pool, recipe: Recipe, origin: Mapping[str, object]
) -> dict[str, Any]:
    """All of it, as plain JSON values."""
    rng = np.random.default_rng(0)
    return {
        **origin,
        "recipe": asdict(recipe),
        "router": {"rule": pool.scorer.rule, "instances": pool.table.n_queries},
        "systems": {
            system: {
                "average": {
                    "ndcg@10": measured.mean(system),
                    "recall@100": measured.mean(system, "recall"),
                },
                "paper_ndcg@10": PAPER[system] / 100 if system in PAPER else None,
                **{
                    name: {
                        "ndcg@10": asdict(bootstrap_mean(judged.ndcg, rng)),
                        "recall@100": float(judged.recall.mean()),
                    }
                    for name, judged in by_collection.items()
                },
            }
            for system, by_collection in measured.systems.items()
        },
        "gain": {system: gain_over(measured, system) for system in (BASE, MULTITASK)},
        "routed": measured.routed,
        "experts": {
            name: dict(trained.adapter.facts)
            for name, trained in (*pool.experts.items(), (MULTITASK, pool.multitask))
        },
    }
