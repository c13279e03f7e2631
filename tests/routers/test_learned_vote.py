"""The learned vote: what it learns from tables whose right weights are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coe.errors import DatasetError, UnknownExpert
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.outcomes import OutcomeTable
from coe.routers.artifacts import Artifact
from coe.routers.ballots import Ballots, recorded_ballots
from coe.routers.learned_vote import LearnedVote
from coe.routers.policies import AdaptiveVote, replay, verdict_scores
from coe.routers.policies.replay import Verdict, by_majority, by_model
from coe.routing import FloatArray, Heard
from coe.types import Completion, GenerationRequest, Message, Query

POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("sage", "twin1", "twin2")))
RATES = np.array([0.7, 0.5, 0.5])
REQUEST = GenerationRequest((Message("user", "?"),))


def _twins(n: int, seed: int) -> OutcomeTable:
    """Four options; sage is right in 70 %, the twins say always the same, right in 50 %."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 4, n)
    said = np.empty((n, 3), dtype=int)
    for e, rate in ((0, 0.7), (1, 0.5)):
        wrong = (right + rng.integers(1, 4, n)) % 4
        said[:, e] = np.where(rng.random(n) < rate, right, wrong)
    said[:, 2] = said[:, 1]
    answers = tuple(tuple("ABCD"[a] for a in row) for row in said)
    queries = tuple(Query(str(i), str(i)) for i in range(n))
    return OutcomeTable(queries, POOL.ids, (said == right[:, None]).astype(float), answers)


def _scores(table: OutcomeTable) -> FloatArray:
    return np.tile(RATES, (table.n_queries, 1))


@pytest.fixture(scope="module")
def vote() -> LearnedVote:
    table = _twins(2000, 0)
    return LearnedVote.fit(table, _scores(table))


def _heard(answers: str) -> list[Heard]:
    return [Heard(id_, None if a == "-" else a) for id_, a in zip(POOL.ids, answers, strict=False)]


def test_two_that_always_agree_count_as_one(vote: LearnedVote) -> None:
    chances = vote.chances(RATES, POOL, _heard("ABB"))
    assert list(chances) == ["A", "B"]
    assert chances["A"] > chances["B"]


def test_chances_are_those_of_the_table(vote: LearnedVote) -> None:
    """Sage against the twins: 0.7 / 6 to 0.3 / 6 to 0.1 / 3 for neither, so 7 to 3 to 2.

    Linear utilities come near and no nearer: alone, sage is believed 0.06 too much.
    """
    assert vote.chances(RATES, POOL, _heard("A"))["A"] == pytest.approx(0.7, abs=0.08)
    differ = vote.chances(RATES, POOL, _heard("ABB"))
    assert differ["A"] == pytest.approx(7 / 12, abs=0.08)
    assert differ["B"] == pytest.approx(3 / 12, abs=0.08)
    # All three: 0.35 right to 0.05 wrong.
    assert vote.chances(RATES, POOL, _heard("AAA"))["A"] == pytest.approx(0.875, abs=0.08)


def test_learned_vote_beats_majority_where_experts_err_together(vote: LearnedVote) -> None:
    table = _twins(400, 1)
    everybody = replay(AdaptiveVote(3, 1.0, model=vote), _scores(table), table, POOL)
    assert (everybody.calls == 3).all()

    def mean(verdict: Verdict) -> float:
        return float(verdict_scores(everybody, _scores(table), table, verdict).mean())

    assert mean(by_model(vote, POOL)) > mean(by_majority) + 0.1


def test_order_asked_does_not_matter(vote: LearnedVote) -> None:
    heard = _heard("ABA")
    backwards = vote.chances(RATES, POOL, heard[::-1])
    for answer, chance in vote.chances(RATES, POOL, heard).items():
        assert backwards[answer] == pytest.approx(chance)


def test_unreadable_answers_have_no_vote(vote: LearnedVote) -> None:
    assert vote.chances(RATES, POOL, _heard("---")) == {}
    assert list(vote.chances(RATES, POOL, _heard("-B"))) == ["B"]


def test_higher_score_makes_an_answer_likelier() -> None:
    """Scores that tell right from wrong get weight."""
    table = _twins(400, 2)
    told = 0.3 + 0.4 * table.scores
    vote = LearnedVote.fit(table, told)
    sure = vote.chances(np.array([0.7, 0.3, 0.3]), POOL, _heard("ABB"))
    unsure = vote.chances(np.array([0.3, 0.7, 0.7]), POOL, _heard("ABB"))
    assert sure["A"] > 0.8
    assert unsure["B"] > 0.8


def test_fit_is_repeatable_and_round_trips(vote: LearnedVote, tmp_path: Path) -> None:
    table = _twins(2000, 0)
    again = LearnedVote.fit(table, _scores(table))
    again.artifact().save(tmp_path / "vote")
    restored = LearnedVote(Artifact.load(tmp_path / "vote"))
    expected = vote.chances(RATES, POOL, _heard("ABC"))
    assert restored.chances(RATES, POOL, _heard("ABC")) == expected


async def test_serving_returns_a_completion_of_the_elected_answer(vote: LearnedVote) -> None:
    completions = [
        ("sage", Completion("a. first", "stop", None)),
        ("twin1", Completion("b. second", "stop", None)),
        ("twin2", Completion("b. third", "stop", None)),
    ]
    reading = LearnedVote(vote.artifact(), read=lambda text: text[0])
    assert await reading.aggregate(REQUEST, completions) == "a. first"
    assert await reading.with_scores({"sage": 0.7}).aggregate(REQUEST, completions) == "a. first"
    mute = LearnedVote(vote.artifact(), read=lambda text: None)
    assert await mute.aggregate(REQUEST, completions) == "a. first"
    with pytest.raises(UnknownExpert):
        await reading.aggregate(REQUEST, [("stranger", completions[0][1])])


def test_unmeasured_experts_were_not_heard() -> None:
    table = _twins(4, 0)
    scores = table.scores.copy()
    scores[0, 0] = np.nan
    holed = replace(table, scores=scores)
    ballots, right = recorded_ballots(holed, _scores(holed))
    assert ballots.columns[0].tolist() == [1, 2, 0]
    assert ballots.answers[0].tolist() == [0, 0, -2]
    assert right[0] == (0 if scores[0, 1] else -1)


def test_features_of_a_small_ballot() -> None:
    """Two of three agree: counts, shares and leaders by hand."""
    ballots = Ballots(np.array([[2, 0, 1]]), np.array([[0, 1, 0]]), np.full((1, 3), 0.5))
    features, exists = ballots.features(3)
    assert exists.tolist() == [[True, True, True]]
    np.testing.assert_array_equal(features[0, 0, :3], [0, 1, 1])
    np.testing.assert_array_equal(features[0, 1, :3], [1, 0, 0])
    # expected, best_expected, log_count, is_alone, share, of_the_best
    np.testing.assert_allclose(features[0, 0, 3:9], [0, 0, np.log(2), 0, 2 / 3, 1])
    np.testing.assert_allclose(features[0, 1, 3:9], [0, 0, 0, 1, 1 / 3, 1])
    # none, log_heard, unread, best_known, agreement
    np.testing.assert_allclose(features[0, 2, 9:], [1, np.log(3), 0, 0, 2 / 3])
    assert not features[0, 2, :9].any()


def test_fit_without_answers_is_refused() -> None:
    table = _twins(4, 0)
    with pytest.raises(DatasetError, match="needs the answers"):
        LearnedVote.fit(replace(table, answers=None), _scores(table))
    with pytest.raises(DatasetError, match="at least one query"):
        LearnedVote.fit(table.rows(np.zeros(4, bool)), _scores(table)[:0])
