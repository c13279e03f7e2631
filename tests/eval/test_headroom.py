"""The oracle's expected lead, on tables whose makers know the truth."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import DatasetError
from coe.eval.headroom import fit_rasch, headroom, headroom_of
from coe.outcomes import FloatArray, OutcomeTable
from coe.types import Query

NAN = float("nan")


def _table(scores: FloatArray) -> OutcomeTable:
    queries = tuple(Query(f"question {i}", str(i)) for i in range(len(scores)))
    experts = tuple(f"e{j}" for j in range(scores.shape[1]))
    return OutcomeTable(queries, experts, scores)


def _drawn(chances: FloatArray, seed: int) -> OutcomeTable:
    drawn = np.random.default_rng(seed).random(chances.shape) < chances
    return _table(drawn.astype(float))


def _rasch(n: int, abilities: FloatArray, spread: float, seed: int) -> FloatArray:
    difficulties = np.random.default_rng(seed).normal(0.0, spread, n)
    chances: FloatArray = 1 / (1 + np.exp(difficulties[:, None] - abilities[None, :]))
    return chances


@pytest.mark.parametrize(("n_experts", "spread"), [(2, 1.0), (6, 1.5), (20, 2.5)])
def test_headroom_of_experts_that_differ_in_ability_alone_is_explained(
    n_experts: int, spread: float
) -> None:
    abilities = np.linspace(-0.8, 0.8, n_experts)
    chances = _rasch(20_000, abilities, spread, seed=1)
    room = headroom(_drawn(chances, seed=2))
    truth = 1 - (1 - chances).prod(axis=1).mean()
    assert room.expected_oracle == pytest.approx(truth, abs=0.01)
    assert room.explained == pytest.approx(1.0, abs=0.06)


def test_headroom_abilities_are_those_that_made_the_table() -> None:
    abilities = np.array([-1.0, 0.0, 0.5, 1.5])
    right = _drawn(_rasch(40_000, abilities, 1.5, seed=3), seed=4).scores
    fitted, weights = fit_rasch(right)
    assert fitted == pytest.approx(abilities, abs=0.08)
    assert weights.sum() == pytest.approx(1.0)


def test_headroom_of_specialists_is_not_all_explained() -> None:
    fields = np.arange(5_000) % 5
    chances = np.where(fields[:, None] == np.arange(5)[None, :], 0.95, 0.05)
    room = headroom(_drawn(chances, seed=5))
    assert room.oracle > 0.94
    assert room.explained < 0.75


def test_headroom_of_copies_of_one_expert_is_more_than_explained() -> None:
    column = (np.random.default_rng(6).random((1_000, 1)) < 0.6).astype(float)
    room = headroom(_table(np.repeat(column, 4, axis=1)))
    assert room.oracle == room.best_single
    assert np.isnan(room.explained)
    assert "%" not in room.words


def test_headroom_leaves_out_queries_that_some_expert_was_not_measured_on() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [NAN, 1.0], [1.0, 1.0], [0.0, 0.0]])
    room = headroom(_table(scores))
    assert (room.n_queries, room.best_single, room.oracle) == (4, 0.5, 0.75)


def test_headroom_needs_two_experts_and_a_shared_query() -> None:
    with pytest.raises(DatasetError, match="at least two experts"):
        headroom(_table(np.array([[1.0], [0.0]])))
    assert headroom_of(_table(np.array([[1.0, NAN], [NAN, 0.0]]))) is None
