"""Adaptive policies against small models of what they promise, for any answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coe.errors import ConfigError, DatasetError, PoolMismatch, RoutingError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.policies import (
    AdaptiveVote,
    AskAll,
    Cascade,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    IndependentVotes,
    PolicySpec,
    PricedVote,
    TopK,
    majority,
    policy_of,
    replay,
    verdict_scores,
)
from coe.routers.policies.replay import by_model
from coe.routing import AdaptivePolicy, FloatArray, Heard
from coe.types import Query

PARAMS = {"a": 70.0, "b": 8.0, "c": 4.0, "d": 7.0, "e": 1.0}
POOL = ExpertPool(tuple(Expert(i, ScriptedSpec(), params_active_b=p) for i, p in PARAMS.items()))
FALLING = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
SCORES = arrays(np.float64, 5, elements=st.sampled_from([0.2, 0.4, 0.6, 0.8]))
ANSWERS = st.lists(st.sampled_from([None, "A", "B", "C"]), min_size=5, max_size=5)

EVERY: tuple[AdaptivePolicy, ...] = (
    AskAll(TopK(3)),
    FallbackOnUnreadable(3),
    Cascade(length=4, threshold=0.7),
    Cascade(chain=("e", "a")),
    EarlyStoppingVote(3),
    EarlyStoppingVote(3, 5),
    AdaptiveVote(4, 0.7),
    PricedVote("params_active_b", 0.002, 0.2, k_max=4),
)
MOST = (3, 3, 4, 2, 3, 5, 4, 4)


def _ask(
    policy: AdaptivePolicy, scores: FloatArray, answers: Sequence[str | None]
) -> tuple[Heard, ...]:
    told = dict(zip(POOL.ids, answers, strict=True))
    heard: tuple[Heard, ...] = ()
    while (expert_id := policy.next(scores, POOL, heard)) is not None:
        assert expert_id not in {each.expert_id for each in heard}
        heard = (*heard, Heard(expert_id, told[expert_id]))
    return heard


def _experts(heard: Sequence[Heard]) -> str:
    return "".join(each.expert_id for each in heard)


@pytest.mark.parametrize(
    ("policy", "most"),
    list(zip(EVERY, MOST, strict=True)),
    ids=lambda value: getattr(value, "name", ""),
)
@given(scores=SCORES, answers=ANSWERS)
def test_asks_somebody_nobody_twice_and_stops(
    policy: AdaptivePolicy, most: int, scores: FloatArray, answers: list[str | None]
) -> None:
    assert 1 <= len(_ask(policy, scores, answers)) <= most


@given(answers=ANSWERS, k=st.integers(1, 5))
def test_early_stopping_votes_as_if_everybody_was_asked(answers: list[str | None], k: int) -> None:
    everybody = [Heard(id_, answer) for id_, answer in zip(POOL.ids, answers, strict=True)][:k]
    heard = _ask(EarlyStoppingVote(k), FALLING, answers)
    assert heard == tuple(everybody[: len(heard)])
    assert majority(heard) == majority(everybody)


@given(answers=ANSWERS, k=st.integers(1, 5))
def test_early_stopping_stops_as_soon_as_nothing_can_change(
    answers: list[str | None], k: int
) -> None:
    heard = _ask(EarlyStoppingVote(k), FALLING, answers)
    if len(heard) < 2:
        return
    before = heard[:-1]
    n_left = k - len(before)
    ends = {
        majority((*before, *(Heard(f"x{i}", rival) for i in range(n_left))))
        for rival in ("A", "B", "C", "new", None)
    }
    assert len(ends) > 1


@pytest.mark.parametrize(
    ("answers", "asked"),
    [("AAB", "ab"), ("ABA", "abc"), ("ABC", "abc"), ("A-A", "ab"), ("--A", "abc")],
)
def test_vote_of_three_stops_when_two_agree(answers: str, asked: str) -> None:
    told = [None if a == "-" else a for a in answers.ljust(5, "Z")]
    assert _experts(_ask(EarlyStoppingVote(3), FALLING, told)) == asked


def test_unreadable_answers_are_replaced_up_to_the_most_calls() -> None:
    told = ["A", None, None, "B", "B"]
    assert _experts(_ask(EarlyStoppingVote(3), FALLING, told)) == "ab"
    assert _experts(_ask(EarlyStoppingVote(3, 4), FALLING, told)) == "abc"
    assert _experts(_ask(EarlyStoppingVote(3, 5), FALLING, told)) == "abcde"


@pytest.mark.parametrize(("answers", "asked"), [("A----", "a"), ("-B---", "ab"), ("-----", "abc")])
def test_fallback_goes_on_until_an_answer_is_read(answers: str, asked: str) -> None:
    told = [None if a == "-" else a for a in answers]
    assert _experts(_ask(FallbackOnUnreadable(3), FALLING, told)) == asked


def test_cascade_asks_the_cheapest_of_the_best_first() -> None:
    cascade = Cascade(length=4)
    assert _experts(_ask(cascade, FALLING, ["A", "B", "C", "D", "E"])) == "cdba"
    assert _experts(_ask(cascade, FALLING, ["A", "B", "B", "B", "E"])) == "cd"
    assert _experts(_ask(cascade, FALLING, ["A", "B", None, None, "E"])) == "cdba"


def test_cascade_trusts_an_expert_above_the_threshold() -> None:
    cascade = Cascade(length=4, threshold=0.75)
    assert _experts(_ask(cascade, FALLING, ["A", "B", "C", "D", "E"])) == "cdb"
    assert _experts(_ask(cascade, FALLING, ["A", None, "C", "D", "E"])) == "cdba"


def test_cascade_chain_is_kept() -> None:
    cascade = Cascade(chain=("e", "a", "b"), agreeing=2)
    assert _experts(_ask(cascade, FALLING, ["A", "B", "C", "D", "A"])) == "ea"
    assert _experts(_ask(cascade, FALLING, ["A", "B", "C", "D", "E"])) == "eab"


def test_independent_votes_follow_bayes() -> None:
    """Two options, p 0.8 and 0.6: agreeing 0.48 to 0.08, else 0.32 to 0.12."""
    model = IndependentVotes(n_options=2)
    scores = np.array([0.8, 0.6, 0.5, 0.5, 0.5])
    agree = model.chances(scores, POOL, [Heard("a", "A"), Heard("b", "A")])
    assert agree["A"] == pytest.approx(0.48 / 0.56)
    differ = model.chances(scores, POOL, [Heard("a", "A"), Heard("b", "B")])
    assert differ == {"A": pytest.approx(0.32 / 0.44), "B": pytest.approx(0.12 / 0.44)}


def test_independent_votes_leave_room_for_what_nobody_said() -> None:
    """One of ten options heard from an expert with p 0.4: 0.4, the rest for the other nine."""
    scores = np.array([0.4, 0.4, 0.4, 0.4, 0.4])
    model = IndependentVotes(n_options=10)
    assert model.chances(scores, POOL, [Heard("a", "A")])["A"] == pytest.approx(0.4)
    assert model.chances(scores, POOL, [Heard("a", None)]) == {}
    less = IndependentVotes(n_options=10, trust=0.5).chances(scores, POOL, [Heard("a", "A")])
    assert less["A"] == pytest.approx(6**0.5 / (6**0.5 + 9))


def test_adaptive_vote_stops_when_confident() -> None:
    scores = np.array([0.8, 0.8, 0.8, 0.8, 0.8])
    vote = AdaptiveVote(5, 0.95)
    assert _experts(_ask(vote, scores, ["A", "A", "B", "B", "A"])) == "ab"
    assert _experts(_ask(vote, scores, ["A", "B", "A", "B", "A"])) == "abc"
    assert _experts(_ask(AdaptiveVote(5, 0.8), scores, ["A", "B", "A", "B", "A"])) == "a"


def test_adaptive_vote_gives_up_where_the_next_expert_is_no_better() -> None:
    """An expert of 0.3 alone has 0.3, and two that agree 0.62; the next one's score is 0.3."""
    hopeless = np.full(5, 0.3)
    assert _experts(_ask(AdaptiveVote(5, 0.9, 0.0), hopeless, list("ABCDE"))) == "a"
    assert _experts(_ask(AdaptiveVote(5, 0.9, 0.3), hopeless, list("AACDE"))) == "ab"
    assert _experts(_ask(AdaptiveVote(5, 0.9, 0.35), hopeless, list("AACDE"))) == "abcde"
    told = [None, "A", "B", "C", "D"]
    assert _experts(_ask(AdaptiveVote(5, 0.9, 0.0), hopeless, told)) == "ab"


@given(scores=SCORES, answers=ANSWERS)
def test_adaptive_vote_asks_no_fewer_for_more_confidence(
    scores: FloatArray, answers: list[str | None]
) -> None:
    fewer = _ask(AdaptiveVote(5, 0.6), scores, answers)
    assert _ask(AdaptiveVote(5, 0.9), scores, answers)[: len(fewer)] == fewer


def test_priced_vote_sends_scouts_before_the_worthiest() -> None:
    """Worth at 0.005 a billion: a 0.6, b 0.46, c 0.43, d 0.415, e 0.395."""
    scores = np.array([0.95, 0.5, 0.45, 0.45, 0.4])
    patient = PricedVote("params_active_b", 0.005, 0.2, model=IndependentVotes(10))
    # b and c agree: 0.88 is more than a is worth.
    assert _experts(_ask(patient, scores, ["A", "B", "B", "C", "D"])) == "bc"
    # b, c and d disagree; e is worth 0.205 less than a, which is beyond patience.
    assert _experts(_ask(patient, scores, ["A", "B", "C", "D", "E"])) == "bcda"
    assert _experts(_ask(PricedVote("params_active_b", 0.005), scores, list("ABCDE"))) == "a"
    # At 0.01 a is worth 0.25 and c 0.41, so that b alone is believed.
    assert _experts(_ask(PricedVote("params_active_b", 0.01), scores, list("ABCDE"))) == "b"


def test_priced_vote_scouts_are_much_cheaper_than_the_worthiest() -> None:
    """A quarter of b's 8 billion: e with 1 may scout, c with 4 and d with 7 may not."""
    policy = PricedVote("params_active_b", 0.0, 0.2)
    scores = np.array([0.1, 0.6, 0.59, 0.58, 0.5])
    assert policy.next(scores, POOL, ()) == "e"
    assert policy.next(scores, POOL, [Heard("e", None)]) == "b"


def _table() -> OutcomeTable:
    queries = tuple(Query(str(i), str(i)) for i in range(3))
    answers = (("A", "B", "B"), (None, "A", "C"), ("A", "A", "C"))
    scores = np.array([[0, 1, 1], [0, 1, 0], [np.nan, 0, 1]], dtype=float)
    return OutcomeTable(queries, ("a", "b", "c"), scores, answers)


def _replayed(policy: AdaptivePolicy) -> tuple[list[str], list[float]]:
    pool, table = POOL.subset(["a", "b", "c"]), _table()
    scores = np.tile([0.9, 0.8, 0.7], (3, 1))
    replayed = replay(policy, scores, table, pool)
    assert replayed.calls.tolist() == [len(heard) for heard in replayed.heard]
    np.testing.assert_array_equal(replayed.asked(pool.ids).sum(axis=1), replayed.calls)
    outcomes = verdict_scores(replayed, scores, table)
    return [_experts(heard) for heard in replayed.heard], outcomes.tolist()


def test_replay_asks_recorded_answers() -> None:
    assert _replayed(FallbackOnUnreadable(2)) == (["a", "ab", "ab"], [0.0, 1.0, 0.0])
    # On the second and third query c could only draw level with b's A, which was heard before.
    assert _replayed(EarlyStoppingVote(3)) == (["abc", "ab", "ab"], [1.0, 1.0, 0.0])


def test_replay_of_an_unreadable_answer_scores_it_as_recorded() -> None:
    asked, outcomes = _replayed(AskAll(TopK(1)))
    assert asked == ["a", "a", "a"]
    np.testing.assert_array_equal(outcomes, [0.0, 0.0, np.nan])


def test_verdict_of_a_model_is_its_likeliest_answer() -> None:
    pool = POOL.subset(["a", "b", "c"])
    scores = np.array([0.9, 0.5, 0.5])
    heard = (Heard("a", "A"), Heard("b", "B"), Heard("c", "B"))
    assert by_model(IndependentVotes(2), pool)(scores, heard) == "A"
    assert by_model(IndependentVotes(100), pool)(scores, heard) == "B"
    assert by_model(IndependentVotes(2), pool)(scores, (Heard("a", None),)) is None


class _Stutters:
    name = "stutters"

    def next(self, scores: FloatArray, pool: ExpertPool, heard: Sequence[Heard]) -> str | None:
        return "a"


def test_replay_refuses_what_it_cannot_replay() -> None:
    pool, table = POOL.subset(["a", "b", "c"]), _table()
    scores = np.zeros((3, 3))
    with pytest.raises(RoutingError, match="asked 'a' twice"):
        replay(_Stutters(), scores, table, pool)
    with pytest.raises(PoolMismatch, match="for_experts"):
        replay(_Stutters(), scores, table, POOL)
    bare = OutcomeTable(table.queries, table.expert_ids, table.scores)
    with pytest.raises(DatasetError, match="needs the answers"):
        replay(_Stutters(), scores, bare, pool)


@pytest.mark.parametrize(
    ("kind", "k", "options", "expected"),
    [
        ("fallback", 3, {}, FallbackOnUnreadable(3)),
        ("vote", 3, {"max_calls": 5}, EarlyStoppingVote(3, 5)),
        ("adaptive-vote", 4, {"confidence": 0.8, "lead": 0.1}, AdaptiveVote(4, 0.8, 0.1)),
        ("cascade", 3, {"threshold": 0.7}, Cascade(length=3, threshold=0.7)),
        (
            "priced-vote",
            3,
            {"cost": "gib", "multiplier": 0.1, "n_options": 4},
            PricedVote("gib", 0.1, k_max=3, model=IndependentVotes(4)),
        ),
    ],
)
def test_adaptive_policy_is_found_by_name(
    kind: str, k: int, options: dict[str, object], expected: AdaptivePolicy
) -> None:
    assert policy_of(PolicySpec(kind, k, options)) == expected


@pytest.mark.parametrize(
    "build",
    [
        lambda: FallbackOnUnreadable(0),
        lambda: EarlyStoppingVote(3, 2),
        lambda: AdaptiveVote(3, 1.5),
        lambda: Cascade(cost="size"),
        lambda: policy_of(PolicySpec("votes")),
    ],
)
def test_wrong_settings_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        build()
