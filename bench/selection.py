"""Measures expert selection and balance: `python -m bench.selection --data FOLDER`.

`--data` holds recorded MMLU-Pro answers as docs/data.md describes. Writes
bench/results/selection.json. Times are processor time of one thread, which neighbours on the
machine disturb least. Everything is fitted on train; `--on train` rehearses on the
last third of train instead of looking at test.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coe.encoders.recorded import RecordedEncoder
from coe.eval.datasets import RecordedBenchmark, load_mmlu_pro
from coe.outcomes import FloatArray, IntArray, OutcomeTable
from coe.routers.balance import exact_assignment, rounded, sinkhorn_plan
from coe.routers.balance_online import Balanced, OnlineBias
from coe.routers.balance_sparse import sparse_plan
from coe.routers.edge import EdgeScorer
from coe.routers.edge_costs import Budgets, EdgeCosts, Limits
from coe.routers.edge_gate import GateSettings, subset_gaps
from coe.routers.edge_heuristics import best_single, cheapest_first, greedy, random_set
from coe.routers.edge_selection import (
    Selection,
    TopValue,
    branch_reduce_bound,
    exhaustive,
    polyblock,
)
from coe.routers.neighbors import NeighborsScorer
from coe.routers.policies import TopK

RESULTS = Path(__file__).resolve().parent / "results" / "selection.json"
BUDGETS = (4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
"""Billions of active parameters of all experts kept, the stand-in for joules."""
INSTANCES = 5
RANDOM_SETS = 10
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--on", choices=("train", "test"), default="test")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    train, asked, bench = _tables(options.data, options.on)
    encoder = _encoder(train, asked)
    expected = _held_out(train, encoder)
    energies = np.array([expert.params_active_b or np.nan for expert in bench.pool])
    report: dict[str, Any] = {
        "split": options.on,
        "data_digest": asked.digest(),
        "n_train": train.n_queries,
        "n_asked": asked.n_queries,
        "search": _searches(),
        "search_recorded": _recorded_searches(expected, energies),
    }
    gate = EdgeScorer.fit(train, encoder)
    report["energy_curve"] = _curve(gate, expected, energies, asked)
    report["mask_gap"] = _gaps(train, asked, encoder, gate, report["energy_curve"])
    scores = NeighborsScorer.fit(train, encoder, k=160).score(asked.queries)
    report["batch"] = _batch(scores[:1000], asked.scores[:1000])
    report["online"] = _online(scores, asked, bench)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def _tables(folder: Path, on: str) -> tuple[OutcomeTable, OutcomeTable, RecordedBenchmark]:
    bench = load_mmlu_pro(folder, "train", "small")
    if on == "test":
        return bench.table, load_mmlu_pro(folder, "test", "small").table, bench
    last = np.random.default_rng(0).permutation(bench.table.n_queries) % 3 == 0
    return bench.table.rows(~last), bench.table.rows(last), bench


def _encoder(*tables: OutcomeTable) -> RecordedEncoder:
    vectors: dict[str, FloatArray] = {}
    for table in tables:
        assert table.vectors is not None
        vectors.update(zip((q.text for q in table.queries), table.vectors, strict=True))
    return RecordedEncoder(tables[0].vectors_name or "", vectors)


def _held_out(train: OutcomeTable, encoder: RecordedEncoder) -> FloatArray:
    """(n_train, n_experts) what a kNN fitted on the other folds expects of each expert."""
    folds = np.random.default_rng(0).permutation(train.n_queries) % FOLDS
    expected = np.empty_like(train.scores, dtype=float)
    for fold in range(FOLDS):
        held = train.rows(folds == fold)
        scorer = NeighborsScorer.fit(train.rows(folds != fold), encoder, k=160)
        expected[folds == fold] = scorer.score(held.queries)
    return expected


def _timed(search: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = search()
    return found, (time.process_time() - start) * 1000


def _searches() -> list[dict[str, Any]]:
    """Random problems of 64 queries with an energy budget and two classes of delay budget."""
    rows = []
    for n in (6, 8, 10, 12, 16, 20):
        searches: dict[str, Callable[[TopValue, Limits], Selection]] = {
            "branch_reduce_bound": branch_reduce_bound
        }
        if n <= 12:
            searches["polyblock"] = polyblock
        if n <= 12:
            searches["exhaustive"] = exhaustive
        rows.append({"n_experts": n, **_compared(searches, n)})
        print("search", rows[-1], flush=True)
    return rows


def _compared(
    searches: dict[str, Callable[[TopValue, Limits], Selection]], n: int
) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    nodes: dict[str, list[int]] = {name: [] for name in searches}
    times: dict[str, list[float]] = {name: [] for name in searches}
    equal = True
    for _ in range(INSTANCES):
        value, limits = _random_problem(rng, n)
        values = []
        for name, search in searches.items():
            found, ms = _timed(lambda s=search, v=value, lim=limits: s(v, lim))  # type: ignore[misc]
            nodes[name].append(found.n_nodes)
            times[name].append(ms)
            values.append(found.value)
        equal &= max(values) - min(values) < 1e-9
    return {
        "same_value": bool(equal),
        **{
            name: {"nodes": float(np.mean(nodes[name])), "ms": float(np.mean(times[name]))}
            for name in searches
        },
    }


def _random_problem(rng: np.random.Generator, n: int) -> tuple[TopValue, Limits]:
    scores, delays = rng.random((64, n)), rng.random((64, n))
    energies = rng.random((64, n))
    energy_j = float(energies.mean(axis=0).sum() * rng.uniform(0.3, 0.7))
    costs = EdgeCosts(tuple(map(str, range(n))), delays, energies, aggregation_s_per_expert=0.005)
    classes = ["chat", "code"] * 32
    return TopValue(scores), Limits(costs, Budgets(energy_j, {"chat": 0.9, "code": 0.95}), classes)


def _limits(energies: FloatArray, budget: float) -> Limits:
    ids = tuple(map(str, range(len(energies))))
    return Limits(EdgeCosts(ids, np.zeros((1, len(ids))), energies[None]), Budgets(budget))


def _recorded_searches(expected: FloatArray, energies: FloatArray) -> list[dict[str, Any]]:
    """Branch-reduce-bound on all train queries."""
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        limits = _limits(energies, budget)
        boxes, ms = _timed(lambda lim=limits: branch_reduce_bound(TopValue(expected), lim))  # type: ignore[misc]
        rows.append({"budget": budget, "value": boxes.value, "nodes": boxes.n_nodes, "ms": ms})
        print("recorded", rows[-1], flush=True)
    return rows


def _curve(
    gate: EdgeScorer, expected: FloatArray, energies: FloatArray, asked: OutcomeTable
) -> list[dict[str, Any]]:
    value, rows = TopValue(expected), []
    for budget in BUDGETS:
        limits = _limits(energies, budget)
        kept: dict[str, list[Selection]] = {
            "exact": [branch_reduce_bound(value, limits)],
            "greedy": [greedy(value, limits)],
            "best_single": [best_single(value, limits)],
            "cheapest_first": [cheapest_first(value, limits)],
            "random": [random_set(value, limits, seed) for seed in range(RANDOM_SETS)],
        }
        rows.append(
            {
                "budget": budget,
                **{
                    name: _mean_measured(gate, sets, energies, asked) for name, sets in kept.items()
                },
            }
        )
    return rows


def _mean_measured(
    gate: EdgeScorer, sets: Sequence[Selection], energies: FloatArray, asked: OutcomeTable
) -> dict[str, Any]:
    measured = [_measured(gate, one, energies, asked) for one in sets]
    means = {key: float(np.mean([m[key] for m in measured])) for key in measured[0]}
    columns = list(sets[0].columns) if len(sets) == 1 else None
    return {**means, "experts": columns and [asked.expert_ids[i] for i in columns]}


def _measured(
    gate: EdgeScorer, kept: Selection, energies: FloatArray, asked: OutcomeTable
) -> dict[str, float]:
    weights = gate.within([asked.expert_ids[i] for i in kept.columns]).score(asked.queries)
    chosen = weights.argmax(axis=1)
    rows = np.arange(asked.n_queries)
    return {
        "expected": kept.value,
        "top_1_accuracy": float(asked.scores[rows, chosen].mean()),
        "mixture_accuracy": _mixture_accuracy(weights, asked),
        "charged": float(energies[kept.members].sum()),
        "spent_by_top_1": float(energies[chosen].mean()),
        "n_experts": float(kept.members.sum()),
    }


def _mixture_accuracy(weights: FloatArray, asked: OutcomeTable) -> float:
    """Share of queries where the right answer has the largest summed weight.

    Unreadable answers have no vote.
    """
    assert asked.answers is not None
    answers = np.array([[answer or "" for answer in row] for row in asked.answers])
    right = (weights * asked.scores).sum(axis=1)
    wrong = np.zeros(len(weights))
    for answer in np.unique(answers[answers != ""]):
        votes = (weights * ((answers == answer) & (asked.scores == 0))).sum(axis=1)
        wrong = np.maximum(wrong, votes)
    return float((right > wrong).mean())


def _gaps(
    train: OutcomeTable,
    asked: OutcomeTable,
    encoder: RecordedEncoder,
    gate: EdgeScorer,
    curve: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """What a gate trained once loses on the sets of the curve against one trained for each."""
    named = {tuple(row["exact"]["experts"]) for row in curve if row["exact"]["n_experts"] > 1}
    sets = sorted(named, key=lambda ids: (len(ids), ids))
    sets = sets[:: max(1, len(sets) // 3)]
    columns = [[train.expert_ids.index(i) for i in ids] for ids in sets]
    vectors = encoder.encode([query.text for query in train.queries])
    rows = []
    for ids, gap in zip(
        sets, subset_gaps(vectors, train.scores, columns, GateSettings()), strict=True
    ):
        masked = gate.within(ids).score(asked.queries).argmax(axis=1)
        own = EdgeScorer.fit(train.for_experts(ids), encoder)
        alone = own.score(asked.queries).argmax(axis=1)
        held = np.arange(asked.n_queries)
        rows.append(
            {
                "experts": list(ids),
                "masked_loss": gap.masked_loss,
                "retrained_loss": gap.retrained_loss,
                "gap_nats": gap.gap,
                "masked_top_1_accuracy": float(asked.scores[held, masked].mean()),
                "retrained_top_1_accuracy": float(
                    asked.for_experts(ids).scores[held, alone].mean()
                ),
            }
        )
    return rows


def _batch(scores: FloatArray, outcomes: FloatArray) -> dict[str, Any]:
    """Balanced assignment of one batch: places for everyone and 1 % more, the same for each."""
    n_queries, n_experts = scores.shape
    capacities: IntArray = np.full(n_experts, -(-n_queries * 101 // (100 * n_experts)))
    rows = np.arange(n_queries)
    exact, exact_ms = _timed(lambda: exact_assignment(scores, capacities))
    best = float(scores[rows, exact].sum())
    free = scores.argmax(axis=1)
    report: dict[str, Any] = {
        "n_queries": n_queries,
        "n_experts": n_experts,
        "capacity": int(capacities[0]),
        "unbalanced": {
            "value_ratio": float(scores.max(axis=1).sum()) / best,
            "largest_load": int(np.bincount(free).max()),
            "accuracy": float(outcomes[rows, free].mean()),
        },
        "exact": {
            "ms": exact_ms,
            "value_ratio": 1.0,
            "accuracy": float(outcomes[rows, exact].mean()),
        },
    }
    for epsilon in (0.05, 0.01, 0.002):
        plan, plan_ms = _timed(lambda e=epsilon: sinkhorn_plan(scores, capacities, e))  # type: ignore[misc]
        whole, round_ms = _timed(lambda p=plan: rounded(scores, capacities, p.prices))  # type: ignore[misc]
        report[f"sinkhorn_{epsilon}"] = {
            "ms": plan_ms + round_ms,
            "iterations": plan.n_iterations,
            "excess_before_rounding": plan.excess,
            "value_ratio": float(scores[rows, whole].sum()) / best,
            "largest_load": int(np.bincount(whole).max()),
            "accuracy": float(outcomes[rows, whole].mean()),
        }
    for k in (1, 2, 3):
        shares, ms = _timed(lambda k=k: sparse_plan(scores, capacities, k))  # type: ignore[misc]
        report[f"sparse_{k}"] = {
            "ms": ms,
            "excess": shares.excess,
            "experts_a_query": float((shares.shares > 0).sum(axis=1).mean()),
            "value_ratio": float((shares.shares * scores).sum()) / best,
            "accuracy": float((shares.shares * outcomes).sum(axis=1).mean()),
        }
    return report


def _online(scores: FloatArray, asked: OutcomeTable, bench: RecordedBenchmark) -> dict[str, Any]:
    """All queries in a random order, under no bias and under biases of several bounds."""
    order = np.random.default_rng(0).permutation(asked.n_queries)
    report: dict[str, Any] = {}
    for limit in (0.0, 0.02, 0.05, 0.1, 0.2):
        policy: Any = TopK(1)
        if limit:
            policy = Balanced(TopK(1), OnlineBias(step=limit / 20, window=100, limit=limit))
        ids = bench.pool.ids
        chosen = np.array([ids.index(policy.choose(scores[i], bench.pool)[0]) for i in order])
        loads = np.bincount(chosen[len(chosen) // 2 :], minlength=len(ids))
        report[str(limit)] = {
            "imbalance_second_half": float(loads.max() / loads.mean() - 1),
            "accuracy": float(asked.scores[order, chosen].mean()),
            "mean_score_lost": float((scores[order].max(1) - scores[order, chosen]).mean()),
        }
    return report


if __name__ == "__main__":
    main()
