"""The inner experts of the zoo's generalist by field: `python -m bench.inner_experts`.

Questions of five fields are traced one by one, and two things are measured: how far the fields'
distributions over inner experts lie apart, against random halves of one field; and how often the
nearest field is the right one for a held-out question. Centroids are made of train questions and
judged on test questions, which are worded otherwise. Writes bench/results/inner_experts.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from coe.assembly import engines_for
from coe.config import load_config
from coe.engines.base import Engine
from coe.engines.routed_experts import RoutedExperts, Traced
from coe.engines.tracing import trace
from coe.eval.intervals import bootstrap_mean
from coe.outcomes import FloatArray, IntArray
from coe.types import GenerationRequest, Message
from coe.zoo.questions import FIELDS, ZooQuestion, zoo_questions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "inner_experts.json"
EXPERT = "generalist"
N_SPLITS = 200
N_SHUFFLES = 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of some questions, one row each."""

    fields: IntArray  # (n_questions,)
    counts: Mapping[str, FloatArray]
    """What part of a trace → tokens by (n_questions, n_layers, n_experts)."""
    letters: FloatArray  # (n_questions, 256)
    """How often each byte is in a question: what can be told of a field without any model."""
    mean_tokens: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-field", type=int, default=40, help="questions of each split")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = asyncio.run(measured(options.per_field))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


async def measured(per_field: int) -> dict[str, Any]:
    """The whole report."""
    engine = engines_for(load_config(ROOT / "experts.yaml"))[EXPERT]
    try:
        train = await seen(engine, questions("train", per_field))
        test = await seen(engine, questions("test", per_field))
    finally:
        await engine.stop(10.0)
    return {
        "expert": EXPERT,
        "fields": list(FIELDS),
        "questions_per_field": {"train": per_field, "test": per_field},
        "chance": 1 / len(FIELDS),
        "parts": {
            part: {
                "mean_tokens": test.mean_tokens[part],
                "divergence_bits": divergences(test.counts[part], test.fields),
                "nearest_field": nearest(train.counts[part], test.counts[part], train, test),
            }
            for part in test.counts
        },
        "letters_of_the_question": {
            "nearest_field": nearest(train.letters, test.letters, train, test)
        },
        "load_by_field": loads(test),
    }


def questions(split: str, per_field: int) -> list[ZooQuestion]:
    """The first so many of each field; a field's skills take turns."""
    asked = zoo_questions(split)
    chosen = [[q for q in asked if q.field == field][:per_field] for field in FIELDS]
    assert all(len(some) == per_field for some in chosen), f"no {per_field} of each in {split}"
    return [question for some in chosen for question in some]


async def seen(engine: Engine, asked: Sequence[ZooQuestion]) -> Seen:
    traces = [
        await trace(engine, GenerationRequest((Message("user", question.text),)))
        for question in asked
    ]
    parts = [_parts(traced) for traced in traces]
    n_experts = traces[0].n_experts
    return Seen(
        np.array([FIELDS.index(question.field) for question in asked]),
        {
            name: np.array([some[name].counts(n_experts) for some in parts], dtype=float)
            for name in parts[0]
        },
        np.array(
            [np.bincount(list(question.text.encode()), minlength=256) for question in asked],
            dtype=float,
        ),
        {name: float(np.mean([len(some[name].chosen) for some in parts])) for name in parts[0]},
    )


def _parts(traced: Traced) -> dict[str, RoutedExperts]:
    """`first_pass` reads the token that begins every answer: what differs there is context."""
    completion = traced.completion
    return {
        "prompt": traced.prompt,
        "answer": completion,
        "first_pass": RoutedExperts(completion.chosen[:1]),
    }


def divergences(counts: FloatArray, fields: IntArray, seed: int = 0) -> dict[str, Any]:
    """Jensen-Shannon divergence in bits, for each layer, between groups of like size.

    Each field is halved at random, again and again: halves of different fields against halves
    of one field, every question having the same weight. `p_value` is the share of shuffles of the
    fields' names after which whole fields lie as far apart as they do.
    """
    rng = np.random.default_rng(seed)
    shares = _shares(counts)
    splits = [_halves(shares, fields, rng) for _ in range(N_SPLITS)]
    within = np.mean([_js(*halves).mean(axis=0) for halves in splits], axis=0)
    between = np.mean([_apart(halves[0]) for halves in splits], axis=0)
    real = _apart(_means(shares, fields))
    shuffled = [_apart(_means(shares, rng.permutation(fields))) for _ in range(N_SHUFFLES)]
    as_far = (np.array(shuffled) >= real).sum(axis=0)
    return {
        "between_fields": between.tolist(),
        "within_a_field": within.tolist(),
        "ratio": (between / within).tolist(),
        "p_value": ((1 + as_far) / (1 + N_SHUFFLES)).tolist(),
    }


def _shares(counts: FloatArray) -> FloatArray:
    """Each question's counts as distributions over the last axis."""
    shares: FloatArray = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return shares


def _means(shares: FloatArray, fields: IntArray) -> FloatArray:
    """(n_fields, n_layers, n_experts)."""
    return np.array([shares[fields == field].mean(axis=0) for field in np.unique(fields)])


def _halves(
    shares: FloatArray, fields: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Each field's mean over one random half of its questions, and over the other."""
    order = rng.permutation(len(fields))
    rank = np.empty(len(fields), dtype=int)
    for field in np.unique(fields):
        rows = order[fields[order] == field]
        rank[rows] = np.arange(len(rows))
    first = rank % 2 == 0
    return _means(shares[first], fields[first]), _means(shares[~first], fields[~first])


def _apart(means: FloatArray) -> FloatArray:
    """The mean over all pairs of fields (n_layers,)."""
    pairs = [_js(means[a], means[b]) for a, b in combinations(range(len(means)), 2)]
    return np.asarray(np.mean(pairs, axis=0))


def _js(first: FloatArray, second: FloatArray) -> FloatArray:
    """Jensen-Shannon divergence of distributions over the last axis, in bits."""
    middle = (first + second) / 2
    return (_kl(first, middle) + _kl(second, middle)) / 2


def _kl(first: FloatArray, second: FloatArray) -> FloatArray:
    ratio = np.divide(first, second, out=np.ones_like(first), where=first > 0)
    return np.asarray((first * np.log2(ratio)).sum(axis=-1))


def nearest(fitted: FloatArray, asked: FloatArray, train: Seen, test: Seen) -> dict[str, Any]:
    """Share of test questions whose nearest train centroid is that of their field."""
    rows = _shares(asked).reshape(len(asked), -1)
    centroids = _means(_shares(fitted), train.fields).reshape(len(FIELDS), -1)
    guesses = ((rows[:, None] - centroids[None]) ** 2).sum(axis=-1).argmin(axis=1)
    right = (guesses == test.fields).astype(float)
    interval = bootstrap_mean(right, np.random.default_rng(0))
    return {
        "accuracy": interval.mean,
        "interval_95": [interval.low, interval.high],
        "by_field": {
            field: float(right[test.fields == at].mean()) for at, field in enumerate(FIELDS)
        },
    }


def loads(test: Seen) -> dict[str, Any]:
    """Field → share of the answer's choices by (layer, inner expert), to look at."""
    means = _means(_shares(test.counts["answer"]), test.fields)
    return {field: np.round(means[at], 3).tolist() for at, field in enumerate(FIELDS)}


if __name__ == "__main__":
    main()
