"""The router: scorer, policy and pool together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.errors import PoolMismatch, RoutingError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
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


def test_router_refuses_another_pool() -> None:
    with pytest.raises(PoolMismatch, match="coe fit"):
        Router(LengthScorer(), TopK(1), POOL.subset(["a", "b"]))


def test_router_refuses_what_is_no_decision() -> None:
    with pytest.raises(RoutingError, match="not finite"):
        Router(BrokenScorer(), TopK(1), POOL).route("x")
    with pytest.raises(RoutingError, match="chose no expert"):
        Router(LengthScorer(), NoChoice(), POOL).route("x")
