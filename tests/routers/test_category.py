"""Composition of Experts: labels, mapping, budget and doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.routers.category import GENERAL, CategoryScorer, CompositionScorer, SeedLabels
from coe.routers.category_votes import CategoryVotes, expanded_labels, normalized_entropy
from coe.routers.composition_fit import best_limit
from coe.routers.mapping import SizeBudget
from coe.routing import Encoder
from coe.types import Query

SIZES = {"calc": 1.0, "geo": 2.0, "chem": 3.0}


def test_votes_are_shares_of_the_nearest() -> None:
    vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    votes = CategoryVotes(vectors, np.array([0, 0, 1, 1]), 2, k=3)
    np.testing.assert_allclose(votes.shares(np.array([[1.0, 0.0]])), [[2 / 3, 1 / 3]])


def test_entropy_is_normalized() -> None:
    shares = np.array([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    np.testing.assert_allclose(normalized_entropy(shares), [0.0, 1.0, 0.5])
    assert normalized_entropy(np.ones((2, 1))).tolist() == [0.0, 0.0]


def test_unknown_labels_need_enough_votes_of_seeds() -> None:
    """The fifth query has two of three seeds of category 0, the sixth one of each."""
    angles = np.radians([0.0, 1.0, 30.0, 60.0, 2.0, 45.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 0, 1, 0, -1, -1])
    assert expanded_labels(vectors, labels, 2, 3, 0.66).tolist() == [0, 0, 1, 0, 0, 0]
    assert expanded_labels(vectors, labels, 2, 2, 0.66).tolist() == [0, 0, 1, 0, 0, -1]
    assert expanded_labels(vectors, labels, 2, 3, 0.7).tolist() == [0, 0, 1, 0, -1, -1]


@pytest.mark.parametrize(
    ("doubts", "gains", "limit"),
    [
        # Trusting the first two brings 2, the third loses 1 more than it brings.
        ([0.1, 0.2, 0.9], [1.0, 1.0, -1.0], 0.2),
        ([0.1, 0.2, 0.9], [1.0, 0.0, 0.0], 1.0),
        ([0.0, 0.5], [-1.0, 0.5], -1.0),
        # Equal doubts are trusted together or not at all.
        ([0.3, 0.3, 0.6], [2.0, -1.0, -2.0], 0.3),
        ([], [], 1.0),
    ],
)
def test_limit_of_doubt_is_where_trust_brings_most(
    doubts: list[float], gains: list[float], limit: float
) -> None:
    assert best_limit(np.array(doubts), np.array(gains)) == pytest.approx(limit, abs=1e-6)


def test_each_category_goes_to_its_expert(table: OutcomeTable, encoder: Encoder) -> None:
    scorer = CompositionScorer.fit(table, encoder)
    named = {"maths": "calc", "places": "geo", "chemistry": "chem"}
    assert {name: scorer.mapping[name] for name in named} == named
    asked = [Query("acid atom metal"), Query("x", category="maths"), Query("river city")]
    assert scorer.score(asked).argmax(axis=1).tolist() == [2, 0, 1]


def test_budget_closes_experts_and_their_scores_come_last(
    table: OutcomeTable, encoder: Encoder
) -> None:
    scorer = CompositionScorer.fit(table, encoder, SizeBudget(SIZES, total=3.0))
    assert set(scorer.mapping.values()) == {"calc", "geo"}
    scores = scorer.score([Query("x", category=name) for name in table.categories])
    assert (scores[:, 2] <= 0.0).all()
    assert (scores.max(axis=1) >= 1.0).all()
    settings = scorer.artifact().manifest.settings
    assert settings["total_size"] == 3.0
    with pytest.raises(ConfigError, match="raise the budget"):
        CompositionScorer.fit(table, encoder, SizeBudget(SIZES, total=0.5))


def test_average_budget_is_kept_on_the_fitted_shares(table: OutcomeTable, encoder: Encoder) -> None:
    budget = SizeBudget(SIZES, average=1.5)
    settings = CompositionScorer.fit(table, encoder, budget).artifact().manifest.settings
    assert settings["average_active"] <= 1.5 + 1e-6


def test_doubtful_queries_go_to_the_general_expert(table: OutcomeTable, encoder: Encoder) -> None:
    """In a fourth category, whose words are those of all others, only `chem` is any good."""
    mixed = tuple(Query("sum river acid", f"m{i}", "mixed") for i in range(30))
    whole = OutcomeTable(
        (*table.queries, *mixed),
        table.expert_ids,
        np.vstack([table.scores, np.tile([0.0, 0.0, 1.0], (30, 1))]),
    )
    scorer = CompositionScorer.fit(whole, encoder)
    assert scorer.general_expert == "chem"
    assert scorer.mapping[GENERAL] == "chem"
    assert scorer.mapping["maths"] == "calc"
    artifact = scorer.artifact()
    strict = replace(artifact.manifest, settings={**artifact.manifest.settings, "max_doubt": -1.0})
    doubting = CompositionScorer(replace(artifact, manifest=strict), encoder)
    asked = [Query("sum plus digit"), Query("sum plus digit", category="maths")]
    assert doubting.score(asked).argmax(axis=1).tolist() == [2, 0]
    assert "doubt" in doubting.explain(asked[0])[0]
    assert CompositionScorer.fit(whole, encoder, general="geo").general_expert == "geo"


def test_unlabelled_queries_are_learned_from(table: OutcomeTable, encoder: Encoder) -> None:
    """Half the labels hidden: votes bring them back; words of nobody stay out or are general."""
    hidden = tuple(
        replace(query, category=None) if i >= 15 else query for i, query in enumerate(table.queries)
    )
    stranger = Query("nothing known", "s")
    partly = OutcomeTable(
        (*hidden, stranger), table.expert_ids, np.vstack([table.scores, [[0.0, 0.0, 1.0]]])
    )
    strict = SeedLabels(k=3, least_share=1.0)
    fitted = CompositionScorer.fit(partly, encoder, seeds=strict).artifact()
    assert fitted.manifest.settings["n_seeds"] == 15
    assert 15 < fitted.manifest.n_queries <= 31
    kept = CompositionScorer.fit(partly, encoder, seeds=replace(strict, keep_rest=True))
    assert kept.artifact().manifest.n_queries == 31
    if fitted.manifest.n_queries < 31:
        assert GENERAL in kept.categories


def test_composition_needs_seeds_and_a_known_general_expert(
    table: OutcomeTable, encoder: Encoder
) -> None:
    bare = replace(table, queries=tuple(replace(q, category=None) for q in table.queries))
    with pytest.raises(DatasetError, match="seed"):
        CompositionScorer.fit(bare, encoder)
    with pytest.raises(UnknownExpert, match="geo"):
        CompositionScorer.fit(table, encoder, general="gao")


def test_category_table_never_sends_anyone_to_an_unmeasured_expert(
    table: OutcomeTable, encoder: Encoder
) -> None:
    scores = np.where(np.arange(3) == 2, np.nan, 0.25 * table.scores)
    fitted = CategoryScorer.fit(replace(table, scores=scores), encoder)
    assert (fitted.score([Query("x", category=c) for c in table.categories])[:, 2] == 0).all()
