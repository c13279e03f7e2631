"""Training an adapter: it learns what it is shown, the same each time, and stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.retrieval.adapter import LinearAdapter
from coe.retrieval.collection import Collection
from coe.retrieval.domains import Domain, train_expert, train_multitask
from coe.retrieval.training import PairVectors, Recipe, starting_point, train_adapter
from coe.routing import Encoder, FloatArray

RECIPE = Recipe(max_epochs=4, batch_rows=32)


def _separated(n_pairs: int = 400, dim: int = 32) -> PairVectors:
    """Positives agree with their anchor in the first half of the dimensions; the rest is noise."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(n_pairs, dim // 2))

    def noisy() -> FloatArray:
        rows: FloatArray = np.hstack([signal, rng.normal(size=(n_pairs, dim // 2))])
        units: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return units

    weights = np.ones(n_pairs)
    weights[::5] = 0
    ids = np.arange(n_pairs)
    return PairVectors(noisy(), noisy(), ids, ids, weights)


def _hits(adapter: LinearAdapter, vectors: PairVectors) -> float:
    similarities = adapter(vectors.anchors) @ adapter(vectors.positives).T
    return float((similarities.argmax(axis=1) == np.arange(len(similarities))).mean())


def test_training_finds_what_the_identity_does_not() -> None:
    vectors = _separated()
    dim = vectors.anchors.shape[1]
    before = LinearAdapter(np.eye(dim), np.zeros(dim), "toy")
    recipe = Recipe(learning_rate=0.01, max_epochs=20, whitening=0.0)
    trained = train_adapter(vectors, "toy", recipe)
    assert min(trained.losses) < trained.losses[0]
    assert _hits(trained.adapter, vectors) > _hits(before, vectors) + 0.2


def test_training_twice_gives_the_same_adapter(ships: Collection, base: Encoder) -> None:
    domain = Domain.of(ships, base)
    one, other = (train_expert(domain, base.name, RECIPE).adapter for _ in range(2))
    assert one.digest() == other.digest()
    assert one.digest() != train_expert(domain, base.name, Recipe(seed=1)).adapter.digest()


def test_training_stops_when_the_held_out_pairs_get_worse() -> None:
    recipe = Recipe(learning_rate=1.0, max_epochs=50, patience=2, whitening=0.0)
    trained = train_adapter(_separated(), "toy", recipe)
    assert trained.epochs < 50
    assert trained.epochs == int(np.argmin(trained.losses)) + recipe.patience


def test_training_that_helps_nothing_keeps_its_start() -> None:
    vectors = _separated()
    perfect = replace(vectors, positives=vectors.anchors)
    recipe = Recipe(learning_rate=50.0, max_epochs=3, whitening=0.0)
    trained = train_adapter(perfect, "toy", recipe)
    assert np.array_equal(trained.adapter.matrix, np.eye(32))


def test_too_few_pairs_are_told() -> None:
    vectors = _separated(5)
    with pytest.raises(DatasetError, match="4 pairs to train on and 1 held out are too few"):
        train_adapter(vectors, "toy", RECIPE)


def test_other_positives_of_an_anchor_are_no_negatives() -> None:
    vectors = _separated(100)
    same = PairVectors(
        vectors.anchors,
        vectors.positives,
        np.zeros(100, dtype=np.int64),
        vectors.document_ids,
        vectors.weights,
    )
    recipe = Recipe(max_epochs=1, whitening=0.0)
    assert train_adapter(same, "toy", recipe).losses[0] == pytest.approx(0.0, abs=1e-6)
    assert train_adapter(vectors, "toy", recipe).losses[0] > 0.5


def test_starting_point_evens_out_the_covariance() -> None:
    rng = np.random.default_rng(1)
    documents = rng.normal(size=(2000, 4)) * [10, 1, 1, 1] + 5
    matrix, offset = starting_point(documents, Recipe(whitening=0.5, whitening_floor=0.0))
    spread = np.cov((documents - offset) @ matrix, rowvar=False)
    assert spread == pytest.approx(np.eye(4) * spread[0, 0], abs=1e-3)
    assert np.linalg.norm(matrix, 2) == pytest.approx(1.0, abs=1e-5)
    identity, zero = starting_point(documents, Recipe(whitening=0.0))
    assert np.array_equal(identity, np.eye(4))
    assert not zero.any()


def test_multitask_expert_learns_from_every_domain(
    ships: Collection, bread: Collection, base: Encoder
) -> None:
    domains = [Domain.of(each, base) for each in (ships, bread)]
    facts = train_multitask(domains, base.name, RECIPE).adapter.facts
    own = [train_expert(domain, base.name, RECIPE).adapter.facts for domain in domains]
    assert facts["domains"] == ["ships", "bread"]
    for kind, count in facts["pairs"].items():
        assert count == sum(each["pairs"][kind] for each in own)


def test_joined_domains_keep_their_ids_apart() -> None:
    one = _separated(10)
    both = PairVectors.joined([one, one])
    assert len(np.unique(both.document_ids)) == len(np.unique(both.anchor_ids)) == 20
