"""Policies and votes on recorded MMLU-Pro answers: `python -m bench.policies --data FOLDER`.

Everything is fitted and tuned on the training split, on predictions for held-out folds, by the
code that `coe fit` runs; each row reads the test split once. The rows of an earlier version had
been read four times before, so that these are one more look and not a first. Writes
bench/results/policies.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.eval.mmlu_pro import load_mmlu_pro
from coe.eval.vectors import recorded_encoder
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routers.calibration import Calibration
from coe.routers.category import CategoryScorer
from coe.routers.folds import FitsScorer, held_out_scores
from coe.routers.learned_vote import LearnedVote
from coe.routers.linear import LinearScorer
from coe.routers.neighbors import NeighborsScorer
from coe.routers.policies import (
    AskAll,
    PolicySpec,
    TopK,
    costs_of,
    policy_of,
    replay,
    verdict_scores,
)
from coe.routers.policies.replay import Verdict, by_majority, by_model
from coe.routers.policies.tuning import fitted_vote, tuned
from coe.routing import AdaptivePolicy

FloatArray = NDArray[np.floating]

RESULTS = Path(__file__).resolve().parent / "results" / "policies.json"
FITS: Mapping[str, FitsScorer] = {
    "linear": lambda table, encoder: LinearScorer.fit(table, encoder, c=0.1),
    "category": lambda table, encoder: CategoryScorer.fit(table, encoder),
    "knn": lambda table, encoder: NeighborsScorer.fit(table, encoder, k=160),
}
"""The scores are the mean of these, each calibrated; the settings were chosen on train."""
BUDGETS_B = (8.0, 20.0, 45.0, 60.0)
"""Mean active parameters of all calls for a query, in billions."""
MOST_CALLS = {"small": (3.0,), "all": (1.1, 3.0)}


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One pool on one split, with scores that no query of it was fitted for."""

    table: OutcomeTable
    scores: FloatArray
    pool: ExpertPool

    def of(self, expert_ids: Sequence[str]) -> Split:
        columns = [self.table.expert_ids.index(expert_id) for expert_id in expert_ids]
        pool = ExpertPool(tuple(self.pool.expert(expert_id) for expert_id in expert_ids))
        return Split(self.table.for_experts(expert_ids), self.scores[:, columns], pool)


def splits(folder: Path) -> tuple[Split, Split]:
    """Train with held-out scores, test with scores of the fit on all of train; all experts."""
    train, test = (load_mmlu_pro(folder, name, "all") for name in ("train", "test"))
    encoder = recorded_encoder(train.table, test.table)
    held, asked = [], []
    for fit in FITS.values():
        scores = held_out_scores(fit, train.table, encoder)
        calibration = Calibration.fit("platt", scores, train.table.scores)
        held.append(calibration.probabilities(scores))
        fitted = fit(train.table, encoder).score(test.table.queries)
        asked.append(calibration.probabilities(fitted))
    return (
        Split(train.table, np.mean(held, axis=0), train.pool),
        Split(test.table, np.mean(asked, axis=0), test.pool),
    )


def judged(train: Split, test: Split, text: str) -> dict[str, Any]:
    """A policy tuned on train, on test, beside the best single expert of train."""
    given = PolicySpec.parsed(text)
    spec = tuned(given, train.table, train.scores, train.pool, "learned")
    policy = policy_of(spec)
    verdict: Verdict = by_majority
    if spec.kind in ("adaptive-vote", "priced-vote"):
        model = fitted_vote(spec, train.table, train.scores)
        policy, verdict = policy_of(spec, model), by_model(model, test.pool)
    asks = policy if isinstance(policy, AdaptivePolicy) else AskAll(policy)
    return {"policy": text, "tuned": str(spec), **_fared(train, test, asks, verdict)}


def _fared(train: Split, test: Split, policy: AdaptivePolicy, verdict: Verdict) -> dict[str, Any]:
    replayed = replay(policy, test.scores, test.table, test.pool)
    outcomes = verdict_scores(replayed, test.scores, test.table, verdict)
    best_single = train.table.best_single()
    mean = bootstrap_mean(outcomes, np.random.default_rng(0))
    gain = bootstrap_difference(outcomes, test.table.column(best_single), np.random.default_rng(0))
    row: dict[str, Any] = {
        "accuracy": _percent(mean.mean, mean.low, mean.high),
        "over_best_single": _percent(gain.mean, gain.low, gain.high),
        "best_single": best_single,
        "calls": round(float(replayed.calls.mean()), 3),
        "n": mean.n,
    }
    if all(expert.params_active_b is not None for expert in test.pool):
        costs = costs_of(test.pool, "params_active_b")
        row["active_params_b"] = round(float((replayed.asked(test.pool.ids) @ costs).mean()), 2)
    return row


def _percent(*fractions: float) -> list[float]:
    return [round(100 * fraction, 2) for fraction in fractions]


def pool_rows(train: Split, test: Split, limits: Sequence[float]) -> dict[str, Any]:
    """One call, fallback, learned votes under limits on mean calls, and one of everybody."""
    rows = {
        "one call": judged(train, test, "top-1"),
        "fallback on unreadable": judged(train, test, "fallback:k=3"),
    }
    for calls in limits:
        text = f"adaptive-vote:k=10:calls={calls:g}"
        rows[f"at most {calls:g} calls"] = judged(train, test, text)
    everybody = LearnedVote.fit(train.table, train.scores, everybody=True)
    asks = AskAll(TopK(len(test.pool)))
    fared = _fared(train, test, asks, by_model(everybody, test.pool))
    rows["learned vote of everybody"] = {"policy": asks.name, **fared}
    return rows


def mixed_rows(train: Split, test: Split) -> dict[str, Any]:
    """Open experts of mixed sizes under mean active parameters."""
    return {
        f"{budget:g} B, {name}": judged(
            train, test, f"{kind}:cost=params_active_b:budget={budget:g}"
        )
        for name, kind in (("one call", "top-1"), ("priced vote", "priced-vote"))
        for budget in BUDGETS_B
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder mmlu_pro")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    train, test = splits(options.data)
    small = load_mmlu_pro(options.data, "train", "small").pool.ids
    known = [expert.id for expert in train.pool if expert.params_active_b is not None]
    results = {
        "small": pool_rows(train.of(small), test.of(small), MOST_CALLS["small"]),
        "all": pool_rows(train, test, MOST_CALLS["all"]),
        "mixed": mixed_rows(train.of(known), test.of(known)),
    }
    for pool, rows in results.items():
        for name, row in rows.items():
            print(pool, name, row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
