"""Policies and votes on recorded MMLU-Pro answers: `python -m bench.policies --data FOLDER`.

Scores are those of the router `ensemble`. Everything is fitted and tuned on the training split, on
predictions for held-out folds, by the code that `coe fit` runs, so that `coe eval mmlu-pro --router
ensemble --pool POOL --policy POLICY` gives the same rows, with `--aggregator learned` where a vote
is taken. Members, their weights and the kinds of policies were chosen by cross-validation on train.
Each row reads the test split once. Earlier versions of these rows had read it six times before, the
last with other folds of the training split, so that this is one more look and not a first. Writes
bench/results/policies.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coe.eval.entrants import Chances, held_out_chances
from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.eval.mmlu_pro import load_mmlu_pro
from coe.eval.recorded import RecordedBenchmark
from coe.eval.vectors import recorded_encoder
from coe.outcomes import FloatArray
from coe.routers.calibrated import reads_probabilities
from coe.routers.ensemble import EnsembleScorer
from coe.routers.policies import AskAll, PolicySpec, costs_of, policy_of, replay, verdict_scores
from coe.routers.policies.replay import Replayed, Verdict, by_majority, by_model
from coe.routers.policies.tuning import fitted_vote, tuned
from coe.routers.remembered import KnownTexts
from coe.routing import AdaptivePolicy

RESULTS = Path(__file__).resolve().parent / "results" / "policies.json"
LOOKS_BEFORE = 6
BUDGETS_B = (8, 20, 45, 60)
"""Mean active parameters of all calls for a query, in billions."""
COST = "cost=params_active_b"
OF_A_POOL = {"one call": "top-1", "fallback on unreadable": "fallback:k=3"}
ROWS = {
    "small": {
        **OF_A_POOL,
        "at most 3 calls": "adaptive-vote:k=10:calls=3",
        "learned vote of everybody": "top-14",
    },
    "all": {
        **OF_A_POOL,
        "at most 1.1 calls": "adaptive-vote:k=10:calls=1.1",
        "at most 3 calls": "adaptive-vote:k=10:calls=3",
        "learned vote of everybody": "top-28",
    },
    "open": {
        f"{budget} B, {name}": f"{kind}:{COST}:budget={budget}"
        for name, kind in (
            ("one call", "top-1"),
            ("priced vote", "priced-vote"),
            ("planned vote", "planned-vote"),
        )
        for budget in BUDGETS_B
    },
}
"""Pool → row → policy. "open" are the experts of known active parameters, of mixed sizes."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One pool, with scores that no query was fitted for."""

    train: RecordedBenchmark
    test: RecordedBenchmark
    scores: FloatArray
    """(n_test, n_experts) of the scorer itself."""
    chances: Chances

    @classmethod
    def of(cls, folder: Path, pool: str) -> Entry:
        train, test = (load_mmlu_pro(folder, name, pool) for name in ("train", "test"))
        recorded = recorded_encoder(train.table, test.table)
        texts = [query.text for table in (train.table, test.table) for query in table.queries]
        encoder = KnownTexts(recorded, texts)
        scores = EnsembleScorer.fit(train.table, encoder).score(test.table.queries)
        chances = held_out_chances(EnsembleScorer.fit, train.table, encoder, scores)
        return cls(train, test, scores, chances)

    def row(self, text: str) -> dict[str, Any]:
        """A policy tuned on train, on test, beside the best single expert of train."""
        given = PolicySpec.parsed(text)
        train, told, pool = self.train.table, self.chances.fitted_on, self.train.pool
        spec = tuned(given, train, told, pool, "learned")
        is_fallback = spec.kind == "fallback"
        model = None if is_fallback else fitted_vote(spec, train, told, pool)
        policy = policy_of(spec, model)
        verdict: Verdict = by_majority if model is None else by_model(model, pool)
        asks = policy if isinstance(policy, AdaptivePolicy) else AskAll(policy)
        asks_one = spec.kind == "top-1"
        aggregator = "majority" if is_fallback or asks_one else "learned"
        scores = self.chances.judged if reads_probabilities(spec, aggregator) else self.scores
        replayed = replay(asks, scores, self.test.table, pool)
        outcomes = verdict_scores(replayed, scores, self.test.table, verdict)
        return {"policy": text, "tuned": str(spec), **self._told(replayed, outcomes)}

    def _told(self, replayed: Replayed, outcomes: FloatArray) -> dict[str, Any]:
        table, pool = self.test.table, self.test.pool
        best_single = self.train.table.best_single()
        mean = bootstrap_mean(outcomes, np.random.default_rng(0))
        gain = bootstrap_difference(outcomes, table.column(best_single), np.random.default_rng(0))
        row: dict[str, Any] = {
            "accuracy": _percent(mean.mean, mean.low, mean.high),
            "over_best_single": _percent(gain.mean, gain.low, gain.high),
            "best_single": best_single,
            "calls": round(float(replayed.calls.mean()), 3),
            "n": mean.n,
        }
        if all(expert.params_active_b is not None for expert in pool):
            spent = replayed.asked(pool.ids) @ costs_of(pool, "params_active_b")
            row["active_params_b"] = round(float(spent.mean()), 2)
        return row


def _percent(*fractions: float) -> list[float]:
    return [round(100 * fraction, 2) for fraction in fractions]


def rows_of(folder: Path, pools: Sequence[str]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for pool in pools:
        entry = Entry.of(folder, pool)
        results[pool] = {}
        for name, text in ROWS[pool].items():
            results[pool][name] = entry.row(text)
            print(pool, name, results[pool][name], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder mmlu_pro")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = {
        "scorer": "ensemble",
        "fitted_on": "train",
        "judged_on": "test",
        "looks_before_this_one": LOOKS_BEFORE,
        **rows_of(options.data, tuple(ROWS)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
