"""Values of the lower floors: types, experts, outcomes, profiles, errors."""

from __future__ import annotations

import numpy as np
import pytest

from coe.errors import ConfigError, DatasetError, UnknownExpert, nearest
from coe.experts import Expert, ExpertPool, Price, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.profiles import Profile, Tally
from coe.types import Message, Query, Timing, Usage


def _pool(*ids: str, fallback: str | None = None) -> ExpertPool:
    return ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ids), fallback)


def _table() -> OutcomeTable:
    return OutcomeTable(
        (Query("p", "1", "x"), Query("q", "2", "y"), Query("r", "3")),
        ("a", "b"),
        np.array([[1.0, 0.0], [0.0, np.nan], [0.0, 1.0]]),
        answers=(("A", "B"), ("C", None), ("D", "E")),
    )


def test_query_of_a_conversation_is_its_last_user_turn() -> None:
    turns = [Message("user", "one"), Message("assistant", "two"), Message("user", "three")]
    assert Query.of_messages([*turns, Message("tool", "four")]).text == "three"
    assert Query.of_messages([Message("system", "only")]).text == "only"


def test_tpot_is_undefined_below_two_tokens() -> None:
    assert Timing(1.0, 3.0).tpot_s(1) is None
    assert Timing(1.0, 3.0).tpot_s(5) == 0.5


def test_usage_adds_up() -> None:
    assert (Usage(1, 2) + Usage(3, 4)).total_tokens == 10


def test_price_is_per_million_tokens() -> None:
    assert Price(2.0, 4.0).cost_usd(500_000, 250_000) == 2.0


def test_pool_finds_experts_and_names_the_nearest() -> None:
    pool = _pool("geography", "chemistry")
    assert pool.expert("chemistry").id == "chemistry"
    with pytest.raises(UnknownExpert, match="did you mean 'geography'"):
        pool.expert("geografy")


@pytest.mark.parametrize("ids", [(), ("a", "a")])
def test_pool_refuses_none_and_twins(ids: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        _pool(*ids)


def test_pool_subset_keeps_order_and_fallback() -> None:
    pool = _pool("a", "b", "c", fallback="c")
    assert pool.subset(["c", "a"]).ids == ("a", "c")
    assert pool.subset(["a"]).fallback_id is None
    with pytest.raises(UnknownExpert):
        _pool("a", fallback="z")


def test_outcome_means_leave_out_what_was_not_measured() -> None:
    table = _table()
    np.testing.assert_allclose(table.means(), [1 / 3, 0.5])
    assert table.best_single() == "b"
    assert table.categories == ("x", "y")


def test_outcome_columns_and_rows_carry_everything_along() -> None:
    table = _table().for_experts(["b", "a"]).rows(np.array([False, True, True]))
    assert table.expert_ids == ("b", "a")
    assert [query.id for query in table.queries] == ["2", "3"]
    assert table.answers == ((None, "C"), ("E", "D"))
    with pytest.raises(UnknownExpert):
        table.column("c")


def test_outcome_categories_can_be_hidden() -> None:
    hidden = _table().without_categories()
    assert hidden.categories == ()
    assert [query.text for query in hidden.queries] == ["p", "q", "r"]
    np.testing.assert_array_equal(hidden.scores, _table().scores)


def test_outcome_shapes_are_checked() -> None:
    with pytest.raises(DatasetError, match="shape"):
        OutcomeTable((Query("p"),), ("a", "b"), np.zeros((2, 2)))
    with pytest.raises(DatasetError, match="twice"):
        OutcomeTable((Query("p"),), ("a", "a"), np.zeros((1, 2)))


def test_outcome_digest_names_the_data() -> None:
    table = _table()
    assert table.digest() == _table().digest()
    assert table.digest() != table.for_experts(["a"]).digest()


def test_profile_shrinks_towards_its_overall_rate() -> None:
    profile = Profile.of("a", [("x", 1.0), ("x", 1.0), ("y", 0.0), ("y", float("nan"))])
    assert profile.by_skill["y"] == Tally(1, 0.0)
    assert profile.rate("x") == 1.0
    assert profile.rate("y", prior_trials=1) == pytest.approx(1 / 3)
    assert profile.rate("never seen") == pytest.approx(2 / 3)


def test_nearest_name_is_close_or_none() -> None:
    assert nearest("kn", ["knn", "category"]) == "knn"
    assert nearest("zzz", ["knn", "category"]) is None
