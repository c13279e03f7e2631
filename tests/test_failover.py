"""Going on to another expert: how long one is waited for, and how often it may be done."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest

from coe.composition import Composition, Conduct
from coe.engines.base import Engine
from coe.engines.impatient import ImpatientEngine
from coe.engines.retrying import RetryBudget, RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.errors import CoeError, QueueFull, UpstreamError, UpstreamTimeout
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.failover import Failover
from coe.members import Members
from coe.reliability import RetryRules
from coe.routers.baselines import RandomScorer
from coe.routers.policies import TopK
from coe.routing import Router, RoutingDecision
from coe.types import Delta, GenerationRequest, Message

REQUEST = GenerationRequest((Message("user", "hi"),))
DOWN = UpstreamError("a", "down", 503)


def _pool(*ids: str) -> ExpertPool:
    return ExpertPool(tuple(Expert(id_, ScriptedSpec(default=f"from {id_}")) for id_ in ids))


def _router(*ids: str) -> Router:
    return Router(RandomScorer(ids), TopK(1), _pool(*ids))


def _to(first: str, *others: str) -> RoutingDecision:
    scores = {id_: -float(i) for i, id_ in enumerate((first, *others))}
    return RoutingDecision("q", (first,), scores, "fixed/top-1")


class Failing(ScriptedEngine):
    """Fails each time with what it is given, counting."""

    def __init__(self, expert: Expert, error: CoeError) -> None:
        super().__init__(expert)
        self.error = error
        self.n_asked = 0

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.n_asked += 1
        nothing: tuple[Delta, ...] = ()
        for delta in nothing:
            yield delta
        raise self.error


class Dripping(ScriptedEngine):
    """Sends deltas without words until it is left, and tells that it was."""

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert)
        self.patience_s: float | None = None
        self.is_left = False

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.patience_s = request.patience_s
        try:
            while True:
                await asyncio.sleep(0)
                yield Delta()
        finally:
            self.is_left = True


def _composition(
    engines: dict[str, Engine], budget: RetryBudget | None = None, failovers: int = 2
) -> Composition:
    conduct = Conduct(failovers=failovers, first_word_share=0.25, budget=budget)
    return Composition(_router(*engines), engines, conduct=conduct)


def _scripted(pool: ExpertPool, expert_id: str) -> ScriptedEngine:
    return ScriptedEngine(pool.expert(expert_id))


async def test_failover_waits_for_a_share_of_the_time_that_is_left() -> None:
    pool = _pool("a", "b")
    silent = Dripping(pool.expert("a"))
    composition = _composition({"a": ImpatientEngine(silent), "b": _scripted(pool, "b")})
    now = asyncio.get_running_loop().time()
    request = replace(REQUEST, deadline_s=now + 0.2)
    async with asyncio.timeout(5):
        answer = await composition.complete(request, _to("a", "b"))
    assert answer.text == "from b"
    assert silent.is_left
    assert silent.patience_s is not None
    assert 0.0 < silent.patience_s <= 0.05


async def test_last_expert_of_a_request_may_use_all_the_time_there_is() -> None:
    heard: list[float | None] = []

    class Told(ScriptedEngine):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
            heard.append(request.patience_s)
            async for delta in super().stream(request):
                yield delta

    pool = _pool("a", "b", "c")
    engines: dict[str, Engine] = {
        "a": Failing(pool.expert("a"), DOWN),
        "b": Told(pool.expert("b")),
        "c": _scripted(pool, "c"),
    }
    composition = _composition(engines, failovers=1)
    await composition.complete(REQUEST, _to("a", "b", "c"))
    await composition.complete(REQUEST, RoutingDecision.pinned("b"))
    alone = Composition(_router("b"), {"b": engines["b"]})
    await alone.complete(REQUEST, _to("b"))
    assert heard == [None, None, None]


def test_patience_has_no_end_without_a_deadline() -> None:
    failover = Failover(2, 0.5, None)
    router, decision = _router("a", "b"), _to("a", "b")
    assert failover.patience_s(router, decision, {"a"}, None) == math.inf
    assert failover.patience_s(router, decision, {"a", "b"}, None) is None


@pytest.mark.parametrize("n", [1, 50])
async def test_failovers_stay_within_the_budget(n: int) -> None:
    pool = _pool("a", "b")
    budget = RetryBudget(0.1, 0.0, failover_reserve=3.0)
    failing = Failing(pool.expert("a"), DOWN)
    composition = _composition({"a": failing, "b": _scripted(pool, "b")}, budget)
    n_answered = 0
    for _ in range(n):
        with suppress(UpstreamError):
            await composition.complete(REQUEST, _to("a", "b"))
            n_answered += 1
    assert failing.n_asked == n
    # The share of the first request finds the reserve full.
    assert n_answered == min(n, 3 + (n - 1) // 10)


async def test_failover_from_who_asked_nobody_is_free() -> None:
    pool = _pool("a", "b")
    full = Failing(pool.expert("a"), QueueFull("too many wait", 1.0))
    budget = RetryBudget(0.0, 0.0)
    composition = _composition({"a": full, "b": _scripted(pool, "b")}, budget)
    for _ in range(5):
        assert (await composition.complete(REQUEST, _to("a", "b"))).text == "from b"


def test_retries_wait_until_failovers_are_made_up_for() -> None:
    budget = RetryBudget(0.5, 1.0, failover_reserve=2.0)
    assert [budget.take_failover() for _ in range(4)] == [True, True, True, False]
    assert not budget.take()
    for _ in range(5):
        budget.on_request()
    assert not budget.take()
    budget.on_request()
    assert budget.take()


async def test_expert_that_was_silent_is_not_asked_again_where_others_are() -> None:
    expert = _pool("a").expert("a")
    rules = RetryRules(max_retries=2, first_pause_s=0.0)
    for patience_s, n_asked in ((None, 3), (math.inf, 1)):
        failing = Failing(expert, UpstreamTimeout("a", 1.0))
        engine = RetryingEngine(failing, rules)
        with pytest.raises(UpstreamTimeout):
            async for _ in engine.stream(replace(REQUEST, patience_s=patience_s)):
                pass
        assert failing.n_asked == n_asked


async def test_patience_ends_with_the_first_word() -> None:
    class Slow(ScriptedEngine):
        async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
            yield Delta(text="one")
            await asyncio.sleep(0.03)
            yield Delta(text=" two")

    engine = ImpatientEngine(Slow(_pool("a").expert("a")))
    stream = engine.stream(replace(REQUEST, patience_s=0.02))
    assert [delta.text async for delta in stream] == ["one", " two"]


def _become(composition: Composition, engines: dict[str, Engine]) -> Members:
    router = _router(*engines)
    return composition.become(router, Members(router, engines), composition.aggregator)


async def test_answer_under_way_ends_as_it_began_when_the_pool_becomes_another() -> None:
    pool = _pool("a", "b")
    before: dict[str, Engine] = {"a": _scripted(pool, "a")}
    composition = Composition(_router("a"), before)
    request = replace(REQUEST, deadline_s=asyncio.get_running_loop().time() + 60)
    async with composition.answering(request, _to("a")) as answer:
        old = _become(composition, {"b": _scripted(pool, "b")})
        left = asyncio.ensure_future(old.left())
        await asyncio.sleep(0)
        assert not left.done()
        assert "".join([delta.text async for delta in answer.deltas]) == "from a"
    await asyncio.wait_for(left, 1)
    assert composition.pool.ids == ("b",)
    assert composition.counters.answers == 1


async def test_decision_from_before_is_taken_to_who_is_there_now() -> None:
    pool = _pool("a", "b")
    engines: dict[str, Engine] = {id_: _scripted(pool, id_) for id_ in ("a", "b")}
    composition = _composition(engines)
    decision = _to("a", "b")
    _become(composition, {"b": engines["b"], "c": _scripted(_pool("c"), "c")})
    assert (await composition.complete(REQUEST, decision)).text == "from b"
