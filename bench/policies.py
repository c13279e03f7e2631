"""Policies and votes on recorded MMLU-Pro answers: `python -m bench.policies --data FOLDER`.

Everything is fitted and tuned on the training split, on predictions for held-out folds; the test
split is read once, at the end. Writes bench/results/policies.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coe.encoders.recorded import RecordedEncoder
from coe.eval.datasets import load_mmlu_pro
from coe.eval.intervals import bootstrap_difference, bootstrap_mean
from coe.experts import ExpertPool
from coe.outcomes import OutcomeTable
from coe.routers.ballots import Ballots, recorded_ballots
from coe.routers.calibration import Calibration
from coe.routers.category import CategoryScorer
from coe.routers.folds import FitsScorer, fold_numbers, held_out_scores
from coe.routers.learned_vote import C, LearnedVote, VoteWeights
from coe.routers.linear import LinearScorer
from coe.routers.neighbors import NeighborsScorer
from coe.routers.policies import (
    AdaptiveVote,
    AskAll,
    FallbackOnUnreadable,
    Priced,
    PricedVote,
    TopK,
    costs_of,
    fit_multiplier,
    replay,
    verdict_scores,
)
from coe.routers.policies.replay import Verdict, by_majority, by_model
from coe.routing import AdaptivePolicy

FloatArray = NDArray[np.floating]

RESULTS = Path(__file__).resolve().parent / "results" / "policies.json"
FITS: Mapping[str, FitsScorer] = {
    "linear": lambda table, encoder: LinearScorer.fit(table, encoder, c=0.1),
    "category": lambda table, encoder: CategoryScorer.fit(table, encoder),
    "knn": lambda table, encoder: NeighborsScorer.fit(table, encoder, k=160),
}
"""The scores are the mean of these, each calibrated; the settings were chosen on train."""
CHAINS = (
    ("Phi-3-mini-4k-instruct", "mathstral-7B", "Meta-Llama-3_1-8B-Instruct"),
    ("Phi-3-mini-4k-instruct", "Meta-Llama-3_1-8B-Instruct"),
    (
        "Phi-3-mini-4k-instruct",
        "mathstral-7B",
        "Meta-Llama-3_1-8B-Instruct",
        "Mixtral-8x7B-Instruct-v0.1",
    ),
)
"""Small experts to put before the big one; which of them is chosen on train."""
BIG = "Meta-Llama-3_1-70B-Instruct"
BUDGETS_B = (8.0, 20.0, 45.0, 60.0)
CONFIDENCES = np.concatenate([np.linspace(0.2, 0.9, 71), np.linspace(0.905, 0.995, 19)])
LEADS = np.linspace(-0.2, 0.5, 71)
MULTIPLIERS = np.concatenate([[0.0], np.geomspace(2e-4, 3e-2, 80)])
PATIENCES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
MOST_ASKED = (2, 3, 4, 5, 6, 7, 8, 10)
MARGIN = 0.03
"""A limit on calls is to hold for a threshold higher by this, too: many queries of one category
share a score, and a little drift would carry all of them over the threshold."""


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
    recorded: dict[str, FloatArray] = {}
    for table in (train.table, test.table):
        if table.vectors is None:
            raise SystemExit(f"{folder} has no recorded embeddings")
        recorded.update(zip((q.text for q in table.queries), table.vectors, strict=True))
    encoder = RecordedEncoder("recorded", recorded)
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


def held_out_votes(
    split: Split, heard: Sequence[Ballots], right: NDArray[np.integer]
) -> tuple[FloatArray, FloatArray]:
    """(n_sets, n) chance of the leading answer of each set heard, and whether it is right."""
    n, n_experts = split.scores.shape
    folds = fold_numbers(n, seed=1)
    chance, won = np.zeros((len(heard), n)), np.zeros((len(heard), n))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rest = [_rows(ballots, ~held) for ballots in heard]
        weights = VoteWeights.fit(rest, right[~held], n_experts, C)
        for i, ballots in enumerate(heard):
            chances = weights.chances(_rows(ballots, held))[:, :-1]
            chance[i, held] = chances.max(axis=1)
            won[i, held] = (chances.argmax(axis=1) == right[held]) & (chances.max(axis=1) > 0)
    return chance, won


def _rows(ballots: Ballots, kept: NDArray[np.bool_]) -> Ballots:
    return Ballots(ballots.columns[kept], ballots.answers[kept], ballots.chances[kept])


def tuned_vote(split: Split, most_calls: float) -> AdaptiveVote:
    """The adaptive vote that is best on train within a mean number of calls."""
    ballots, right = recorded_ballots(split.table, split.scores)
    k_most = min(max(MOST_ASKED), len(split.pool))
    chance, won = held_out_votes(split, [ballots.first(k + 1) for k in range(k_most)], right)
    ranked = -np.sort(-split.scores, axis=1)
    # The score of the expert asked next; after the last one nothing is compared.
    ahead = chance - np.pad(ranked[:, 1 : k_most + 1], ((0, 0), (0, 1)))[:, :k_most].T
    kinds = [(chance, float(t), AdaptiveVote(confidence=float(t))) for t in CONFIDENCES]
    kinds += [(ahead, float(t), AdaptiveVote(confidence=1.0, lead=float(t))) for t in LEADS]
    best = (-1.0, AdaptiveVote(1))
    for k_max, (sign, least, policy) in product((k for k in MOST_ASKED if k <= k_most), kinds):
        # Where nothing could be read nothing leads, and the vote goes on.
        known = np.where(chance > 0, sign, -np.inf)[:k_max]
        at = _stopped(known, least)
        quality = float(won[at, np.arange(won.shape[1])].mean())
        calls = (_stopped(known, least + MARGIN) + 1).mean()
        if calls <= most_calls and quality > best[0]:
            best = (quality, replace(policy, k_max=k_max))
    return replace(best[1], model=LearnedVote.fit(split.table, split.scores))


def _stopped(sign: FloatArray, least: float) -> NDArray[np.integer]:
    """(n,) the place after which `AdaptiveVote` stops, from 0; `sign` is (k_max, n)."""
    stops = sign >= least
    stops[-1] = True
    places: NDArray[np.integer] = stops.argmax(axis=0)
    return places


def tuned_priced_vote(split: Split, budget_b: float) -> tuple[float, PricedVote]:
    """Train accuracy and the priced vote that is best on train within mean active parameters."""
    ballots, right = recorded_ballots(split.table, split.scores)
    n_experts = len(split.pool)
    sets = [[e for e in range(n_experts) if mask >> e & 1] for mask in range(1, 1 << n_experts)]
    chance, won = held_out_votes(split, [ballots.of_experts(chosen) for chosen in sets], right)
    costs = costs_of(split.pool, "params_active_b")
    best = (-1.0, PricedVote("params_active_b", 0.0))
    for multiplier, patience in product(MULTIPLIERS, PATIENCES):
        policy = PricedVote("params_active_b", float(multiplier), patience)
        asked = _simulated(policy, split.scores - multiplier * costs, costs, chance)
        spent = ((asked[:, None] >> np.arange(n_experts) & 1) * costs).sum(axis=1).mean()
        quality = float(won[asked - 1, np.arange(len(asked))].mean())
        if spent <= budget_b and quality > best[0]:
            best = (quality, policy)
    model = LearnedVote.fit(split.table, split.scores)
    return best[0], replace(best[1], model=model)


def _simulated(
    policy: PricedVote, worth: FloatArray, costs: FloatArray, chance: FloatArray
) -> NDArray[np.integer]:
    """(n,) bit masks of the experts asked: `PricedVote.next` for all queries at once."""
    n, n_experts = worth.shape
    rows, asked, live = np.arange(n), np.zeros(n, dtype=np.intp), np.ones(n, dtype=bool)
    for _ in range(min(policy.k_max, n_experts)):
        left = np.where(asked[:, None] >> np.arange(n_experts) & 1, -np.inf, worth)
        worthiest, highest = left.argmax(axis=1), left.max(axis=1)
        led = np.where(asked > 0, chance[asked - 1, rows], -np.inf)
        live &= ~((led > 0) & (highest <= led))
        is_scout = (costs <= policy.scout_share * costs[worthiest][:, None]) & (
            left >= (highest - policy.patience)[:, None]
        )
        is_scout &= np.isfinite(left)
        scout = np.where(is_scout, left, -np.inf).argmax(axis=1)
        chosen = np.where(is_scout.any(axis=1), scout, worthiest)
        asked = np.where(live, asked | (1 << chosen), asked)
    return asked


def judged(train: Split, test: Split, policy: AdaptivePolicy, verdict: Verdict) -> dict[str, Any]:
    """The one look at test, beside the best single expert of train."""
    replayed = replay(policy, test.scores, test.table, test.pool)
    outcomes = verdict_scores(replayed, test.scores, test.table, verdict)
    best_single = train.table.best_single()
    mean = bootstrap_mean(outcomes, np.random.default_rng(0))
    gain = bootstrap_difference(outcomes, test.table.column(best_single), np.random.default_rng(0))
    row: dict[str, Any] = {
        "policy": policy.name,
        "accuracy": _percent(mean.mean, mean.low, mean.high),
        "over_best_single": _percent(gain.mean, gain.low, gain.high),
        "best_single": best_single,
        "calls": round(float(replayed.calls.mean()), 3),
        "n": mean.n,
    }
    if all(expert.params_active_b is not None for expert in test.pool):
        costs = costs_of(test.pool, "params_active_b")
        spent = (replayed.asked(test.pool.ids) * costs).sum(axis=1).mean()
        row["active_params_b"] = round(float(spent), 2)
    return row


def _percent(*fractions: float) -> list[float]:
    return [round(100 * fraction, 2) for fraction in fractions]


def pool_rows(train: Split, test: Split, budgets: Mapping[str, float]) -> dict[str, Any]:
    """One call, fallback, and learned votes under limits on mean calls."""
    rows = {
        "one call": judged(train, test, AskAll(TopK(1)), by_majority),
        "fallback on unreadable": judged(train, test, FallbackOnUnreadable(3), by_majority),
    }
    for name, most_calls in budgets.items():
        policy = tuned_vote(train, most_calls)
        rows[name] = judged(train, test, policy, by_model(policy.model, test.pool))
    everybody = LearnedVote.fit(train.table, train.scores, everybody=True)
    rows["learned vote of everybody"] = judged(
        train, test, AskAll(TopK(len(test.pool))), by_model(everybody, test.pool)
    )
    return rows


def mixed_rows(train: Split, test: Split) -> dict[str, Any]:
    """Open experts of mixed sizes under mean active parameters."""
    rows: dict[str, Any] = {}
    chains = [(*chain, BIG) for chain in CHAINS]
    costs = costs_of(train.pool, "params_active_b")
    for budget in BUDGETS_B:
        multiplier = fit_multiplier(train.scores, costs, budget)
        priced = Priced(TopK(1), "params_active_b", multiplier)
        rows[f"{budget:g} B, one call"] = judged(train, test, AskAll(priced), by_majority)
    for budget in BUDGETS_B:
        tuned = [tuned_priced_vote(train.of(chain), budget) for chain in chains]
        at = int(np.argmax([quality for quality, _ in tuned]))
        policy, chain = tuned[at][1], chains[at]
        verdict = by_model(policy.model, test.of(chain).pool)
        row = judged(train.of(chain), test.of(chain), policy, verdict)
        rows[f"{budget:g} B, priced vote"] = {**row, "experts": chain}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder mmlu_pro")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    train, test = splits(options.data)
    small = load_mmlu_pro(options.data, "train", "small").pool.ids
    known = [expert.id for expert in train.pool if expert.params_active_b is not None]
    results = {
        "small": pool_rows(train.of(small), test.of(small), {"at most 3 calls": 3.0}),
        "all": pool_rows(train, test, {"at most 1.1 calls": 1.1, "at most 3 calls": 3.0}),
        "mixed": mixed_rows(train.of(known), test.of(known)),
    }
    for pool, rows in results.items():
        for name, row in rows.items():
            print(pool, name, row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
