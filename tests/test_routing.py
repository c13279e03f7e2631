"""The router: scorer, policy and pool together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.errors import PoolMismatch, RoutingError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import FallbackOnUnreadable, SessionAffinity, TopK
from coe.routing import FloatArray, Heard, Router
from coe.types import Query

POOL = ExpertPool(tuple(Expert(id_, ScriptedSpec()) for id_ in ("a", "b", "c")))


class LengthScorer:
    """Scores by the length of the text: short ones to a, long ones to c."""

    name = "length"
    expert_ids: tuple[str, ...] = ("a", "b", "c")

    def score(self, queries: Sequence[Query]) -> FloatArray:
        lengths = np.array([len(query.text) for query in queries], float)
        scores: FloatArray = -np.abs(lengths[:, None] - np.array([1.0, 5.0, 9.0]))
        return scores

    def explain(self, query: Query) -> tuple[str, ...]:
        return (f"it has {len(query.text)} characters",)


class BrokenScorer(LengthScorer):
    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.full((len(queries), 3), np.nan)


class NoChoice:
    name = "none"

    def choose(self, scores: FloatArray, pool: ExpertPool) -> tuple[str, ...]:
        return ()


def test_decision_records_choice_scores_and_reasons() -> None:
    decision = Router(LengthScorer(), TopK(1), POOL).route(Query("12345678", id="q7"))
    assert decision.query_id == "q7"
    assert decision.experts == ("c",)
    assert decision.scores == {"a": -7.0, "b": -3.0, "c": -1.0}
    assert decision.router == "length/top-1"
    assert decision.reasons == (
        "it has 8 characters",
        "c scored -1.000, the best left out was b with -3.000",
    )


def test_routing_without_reasons_looks_once() -> None:
    class CountingScorer(LengthScorer):
        looks = 0

        def score(self, queries: Sequence[Query]) -> FloatArray:
            self.looks += 1
            return super().score(queries)

        def explain(self, query: Query) -> tuple[str, ...]:
            self.looks += 1
            return super().explain(query)

    scorer = CountingScorer()
    decision = Router(scorer, TopK(1), POOL).route("12345678", explain=False)
    assert (decision.experts, decision.reasons, scorer.looks) == (("c",), (), 1)


def test_bare_text_gets_a_fresh_id() -> None:
    router = Router(LengthScorer(), TopK(1), POOL)
    assert router.route("x").query_id != router.route("x").query_id


def test_batch_decides_as_single_queries_do() -> None:
    router = Router(LengthScorer(), TopK(2), POOL)
    texts = ["x", "12345", "123456789", ""]
    assert [d.experts for d in router.route_batch(texts)] == [
        router.route(t).experts for t in texts
    ]
    assert router.route_batch([]) == []


def test_policy_can_be_exchanged() -> None:
    router = Router(LengthScorer(), TopK(1), POOL).with_policy(TopK(3))
    decision = router.route("x")
    assert decision.experts == ("a", "b", "c")
    assert decision.reasons[-1].endswith("every expert was chosen")


def test_router_tells_a_policy_who_answered_the_session_last() -> None:
    router = Router(LengthScorer(), SessionAffinity(TopK(1), switch_cost=2.0), POOL)
    queries = [Query("1234567", previous_expert=id_) for id_ in (None, "a", "b", "c")]
    assert [router.route(query).experts[0] for query in queries] == ["b", "b", "b", "c"]
    assert [d.experts[0] for d in router.route_batch(queries)] == ["b", "b", "b", "c"]


def test_router_follows_the_kind_of_the_policy_it_was_given() -> None:
    static = Router(LengthScorer(), TopK(2), POOL)
    adaptive = static.with_policy(FallbackOnUnreadable(3))
    assert (static.is_adaptive, adaptive.is_adaptive) == (False, True)
    one, two = static.route("12345678"), adaptive.route("12345678")
    assert (one.experts, two.experts) == (("c", "b"), ("c",))
    assert (static.replacement(one, {"c"}), adaptive.replacement(two, {"c"})) == ("b", None)
    heard = (Heard("c", None),)
    assert (static.next_expert(one, heard), adaptive.next_expert(two, heard)) == ("b", "b")
    assert adaptive.with_policy(TopK(1)).next_expert(one, (*heard, Heard("b", "2"))) is None


def test_decided_scores_are_plain_numbers() -> None:
    scores = Router(LengthScorer(), TopK(1), POOL).route("12").scores
    assert [type(score) for score in scores.values()] == [float] * 3


def test_router_refuses_another_pool() -> None:
    with pytest.raises(PoolMismatch, match="coe fit"):
        Router(LengthScorer(), TopK(1), POOL.subset(["a", "b"]))


def test_router_refuses_what_is_no_decision() -> None:
    with pytest.raises(RoutingError, match="not finite"):
        Router(BrokenScorer(), TopK(1), POOL).route("x")
    with pytest.raises(RoutingError, match="chose no expert"):
        Router(LengthScorer(), NoChoice(), POOL).route("x")
