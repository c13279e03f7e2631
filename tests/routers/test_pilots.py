"""Pilot embeddings: the library, both rules, ties, and experts that come and go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, PoolMismatch, UnknownExpert
from coe.outcomes import OutcomeTable
from coe.routers.pilots import NO_PILOT, RULES, TIES, PilotsScorer, Rule, Ties, best_experts
from coe.routing import Encoder, FloatArray
from coe.types import Query

VECTORS = {
    "east": (1.0, 0.0),
    "north": (0.0, 1.0),
    "northeast": (0.6, 0.8),
    "west": (-1.0, 0.0),
}


class CompassEncoder:
    """Directions in the plane."""

    name = "compass"
    dim = 2

    def encode(self, texts: Sequence[str]) -> FloatArray:
        return np.array([VECTORS[text] for text in texts], np.float32).reshape(len(texts), 2)


def compass_table() -> OutcomeTable:
    """`a` is best on east (data set x) and west (y), `b` on north and northeast (x)."""
    rows = [
        (Query("east", "1", "x"), (0.9, 0.1)),
        (Query("west", "2", "y"), (0.8, 0.2)),
        (Query("north", "3", "x"), (0.3, 0.6)),
        (Query("northeast", "4", "x"), (0.2, 0.5)),
        (Query("west", "5", "x"), (0.0, 0.0)),
    ]
    return OutcomeTable(
        tuple(query for query, _ in rows), ("a", "b"), np.array([scores for _, scores in rows])
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # a's pilots are east and west, whose mean similarity to east is 0; b's one pilot is the
        # mean of north and northeast, (0.3, 0.9) / sqrt(0.9).
        ("mean", [0.0, 0.3 / 0.9**0.5]),
        ("nearest", [1.0, 0.3 / 0.9**0.5]),
    ],
)
def test_rules_are_worked_by_hand(rule: Rule, expected: list[float]) -> None:
    scorer = PilotsScorer.fit(compass_table(), CompassEncoder(), rule)
    np.testing.assert_allclose(scorer.score([Query("east")]), [expected], atol=1e-6)
    assert scorer.artifact().manifest.settings["n_pilots"] == 3


def test_ties_go_where_the_rule_says() -> None:
    queries = (Query("east", "1", "x"), Query("north", "2", "x"), Query("west", "3", "x"))
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, np.nan]])
    table = OutcomeTable(queries, ("a", "b", "c"), scores)

    def of(ties: Ties) -> list[list[int]]:
        marks: list[list[int]] = best_experts(table, ties).astype(int).tolist()
        return marks

    # b is better than a over data set x; the last query tells nobody apart.
    assert of("home") == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert of("share") == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert of("first") == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("expert_id", ["calc", "geo", "chem"])
def test_adding_undoes_removing_bit_for_bit(
    rule: Rule, ties: Ties, expert_id: str, table: OutcomeTable, encoder: Encoder
) -> None:
    asked = [Query("sum river"), Query("acid metal"), Query("city"), Query("")]
    fitted = PilotsScorer.fit(table, encoder, rule, ties)
    removed = fitted.without_expert(expert_id)
    restored = removed.with_expert(expert_id, table)
    np.testing.assert_array_equal(restored.score(asked), fitted.score(asked))
    assert restored.artifact().manifest == fitted.artifact().manifest
    kept = [id_ for id_ in table.expert_ids if id_ != expert_id]
    columns = [table.expert_ids.index(id_) for id_ in kept]
    np.testing.assert_array_equal(removed.score(asked), fitted.score(asked)[:, columns])
    assert removed.expert_ids == tuple(kept)


def test_library_has_at_most_one_pilot_for_each_data_set_and_expert(
    table: OutcomeTable, encoder: Encoder
) -> None:
    n_pilots = PilotsScorer.fit(table, encoder).artifact().manifest.settings["n_pilots"]
    assert 3 <= n_pilots <= 9


def test_expert_that_is_never_best_comes_last(encoder: Encoder) -> None:
    queries = (Query("sum", "1"), Query("river", "2"))
    table = OutcomeTable(queries, ("a", "b"), np.array([[1.0, 0.0], [1.0, 0.5]]))
    scores = PilotsScorer.fit(table, encoder).score([Query("acid")])
    assert scores[0, 1] == NO_PILOT
    assert scores[0, 0] > NO_PILOT


def test_pilots_need_a_query_that_tells_experts_apart(encoder: Encoder) -> None:
    table = OutcomeTable((Query("sum", "1"),), ("a", "b"), np.array([[1.0, 1.0]]))
    with pytest.raises(DatasetError, match="tells the experts apart"):
        PilotsScorer.fit(table, encoder)


def test_wrong_changes_of_the_pool_are_refused(table: OutcomeTable, encoder: Encoder) -> None:
    fitted = PilotsScorer.fit(table, encoder)
    with pytest.raises(UnknownExpert, match="did you mean 'geo'"):
        fitted.without_expert("gao")
    with pytest.raises(UnknownExpert):
        fitted.with_expert("bio", table)
    with pytest.raises(PoolMismatch, match="the new one"):
        fitted.with_expert("geo", table)
    with pytest.raises(ConfigError, match="only expert"):
        fitted.without_expert("calc").without_expert("geo").without_expert("chem")
    with pytest.raises(ConfigError, match="known: mean"):
        PilotsScorer.fit(table, encoder, "max")  # type: ignore[arg-type]


def test_least_share_drops_pilots_of_groups_won_by_chance(encoder: Encoder) -> None:
    sums = (Query("sum", str(i), "maths") for i in range(4))
    queries = (*sums, Query("river", "5", "lands"))
    scores = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] + [[0.5, 1.0]])
    table = OutcomeTable(queries, ("a", "b"), scores)
    every = PilotsScorer.fit(table, encoder).artifact().manifest.settings
    some = PilotsScorer.fit(table, encoder, least_share=0.3).artifact()
    most = PilotsScorer.fit(table, encoder, least_share=1.0).artifact()
    assert every["n_pilots"] == 3
    assert some.manifest.settings["n_pilots"] == most.manifest.settings["n_pilots"] == 2
    assert some.arrays["owners"].tolist() == [0, 1]


def test_least_share_holds_for_an_expert_that_is_added(encoder: Encoder) -> None:
    texts = ("sum", "sum", "sum", "acid", "river")
    queries = tuple(
        Query(text, str(i), "lands" if text == "river" else "maths") for i, text in enumerate(texts)
    )
    scores = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] + [[0.5, 1.0]])
    table = OutcomeTable(queries, ("a", "b"), scores)
    fitted = PilotsScorer.fit(table, encoder, least_share=0.3)
    again = fitted.without_expert("b").with_expert("b", table)
    assert again.artifact().manifest.settings["n_pilots"] == 2
    asked = [Query("sum"), Query("river"), Query("acid")]
    np.testing.assert_array_equal(again.score(asked), fitted.score(asked))
