"""Experts that fail, are replaced, are asked in turn, and are stopped when all is decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from coe.aggregation import Aggregator, Chain, First, LLMAggregator, MajorityVote, stated_answer
from coe.composition import Composition, Conduct
from coe.engines.base import EngineState, collect
from coe.engines.scripted import ScriptedEngine
from coe.errors import ContextOverflow, StartupError, UpstreamError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import (
    AdaptiveVote,
    Among,
    EarlyStoppingVote,
    FallbackOnUnreadable,
    SessionAffinity,
    TopK,
    WithinLimit,
)
from coe.routing import AdaptivePolicy, FloatArray, Policy, Router
from coe.sessions import Sessions
from coe.types import Delta, GenerationRequest, Message, Query, Usage

DEAD = ScriptedSpec(default="one two three", fail_after_tokens=0)
BREAKS_OFF = ScriptedSpec(default="one two three", fail_after_tokens=1)


class Ranked:
    """The first expert scores 0.9, the next 0.8, and so on."""

    name = "ranked"

    def __init__(self, expert_ids: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(0.9 - 0.1 * np.arange(len(self.expert_ids)), (len(queries), 1))


def _says(text: str) -> ScriptedSpec:
    return ScriptedSpec(default=text)


def _composed(
    specs: dict[str, ScriptedSpec],
    policy: Policy | AdaptivePolicy,
    aggregator: Aggregator | None = None,
    failovers: int = 2,
    context_tokens: dict[str, int] | None = None,
    params_active_b: dict[str, float] | None = None,
) -> tuple[Composition, dict[str, ScriptedEngine]]:
    contexts = context_tokens or {}
    pool = ExpertPool(
        tuple(
            Expert(
                id_,
                spec,
                context_tokens=contexts.get(id_, 4096),
                max_tokens=8,
                params_active_b=(params_active_b or {}).get(id_),
            )
            for id_, spec in specs.items()
        )
    )
    engines = {expert.id: ScriptedEngine(expert) for expert in pool}
    router = Router(Ranked(pool.ids), policy, pool)
    return Composition(router, engines, aggregator, Conduct(failovers)), engines


def _request(text: str = "hello there") -> GenerationRequest:
    return GenerationRequest((Message("user", text),), id="q")


async def _answered(
    composition: Composition, request: GenerationRequest | None = None
) -> tuple[str, tuple[str, ...], Usage | None]:
    request = request or _request()
    async with composition.answering(request, composition.decide(request)) as answer:
        completion = await collect("?", answer.deltas)
        return completion.text, answer.decision.experts, completion.usage


async def test_an_expert_that_fails_before_its_first_word_is_replaced_by_the_next_best() -> None:
    composition, engines = _composed({"a": DEAD, "b": DEAD, "c": _says("yes")}, TopK(1))
    assert (await _answered(composition))[:2] == ("yes", ("c",))
    assert [len(engine.requests) for engine in engines.values()] == [1, 1, 1]


async def test_no_more_experts_are_tried_than_allowed_and_the_first_error_is_told() -> None:
    composition, engines = _composed(
        {"a": DEAD, "b": DEAD, "c": _says("yes")}, TopK(1), failovers=1
    )
    with pytest.raises(UpstreamError, match="'a'"):
        await _answered(composition)
    assert len(engines["c"].requests) == 0


async def test_an_answer_that_breaks_off_is_not_begun_again_by_another() -> None:
    composition, engines = _composed({"a": BREAKS_OFF, "b": _says("yes")}, TopK(1))
    with pytest.raises(UpstreamError):
        await _answered(composition)
    assert len(engines["b"].requests) == 0


async def test_a_pinned_expert_is_never_replaced() -> None:
    composition, _ = _composed({"a": DEAD, "b": _says("yes")}, TopK(1))
    decision = composition.decide(_request(), pinned="a")
    with pytest.raises(UpstreamError):
        await composition.complete(_request(), decision)


async def test_what_overflows_one_context_goes_to_a_longer_one_only() -> None:
    specs = {id_: _says(id_) for id_ in "abc"}
    contexts = {"a": 16, "b": 16, "c": 64}
    composition, engines = _composed(specs, TopK(1), context_tokens=contexts)
    assert (await _answered(composition, _request("word " * 20)))[:2] == ("c", ("c",))
    assert len(engines["b"].requests) == 0
    with pytest.raises(ContextOverflow, match="'a'"):
        await _answered(composition, _request("word " * 100))


class Silent:
    """An engine whose stream ends before it began."""

    expert_id = "a"
    state = EngineState.READY

    async def ensure_ready(self, timeout_s: float) -> None:
        raise StartupError("a", "not asked for")

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        nothing: tuple[Delta, ...] = ()
        for delta in nothing:
            yield delta

    async def stop(self, timeout_s: float) -> None:
        pass


async def test_a_stream_that_ends_before_it_began_counts_as_a_failure() -> None:
    composition, engines = _composed({"a": DEAD, "b": _says("yes")}, TopK(1))
    composition = Composition(composition.router, {**engines, "a": Silent()})
    assert (await _answered(composition))[1] == ("b",)


async def test_recruited_experts_that_failed_are_not_named() -> None:
    specs = {"a": DEAD, "b": _says("yes"), "c": _says("yes")}
    composition, _ = _composed(specs, TopK(3), MajorityVote())
    assert (await _answered(composition))[1] == ("b", "c")


def _hanging(expert: Expert, hung: asyncio.Event) -> ScriptedEngine:
    """Never says its first word, and tells when it has come so far."""

    async def sleep(seconds: float) -> None:
        if seconds > 0:
            hung.set()
            await asyncio.Event().wait()

    return ScriptedEngine(expert, sleep=sleep)


async def test_experts_that_can_change_nothing_are_stopped() -> None:
    specs = {
        "a": _says("yes"),
        "b": _says("yes"),
        "c": ScriptedSpec(default="no", tokens_per_s=1.0),
    }
    composition, engines = _composed(specs, TopK(3), MajorityVote())
    hung = asyncio.Event()
    engines["c"] = _hanging(composition.router.pool.expert("c"), hung)
    await engines["c"].ensure_ready(1)
    composition = Composition(composition.router, engines, MajorityVote())
    text, experts, usage = await _answered(composition)
    assert (text, experts, usage) == ("yes", ("a", "b"), Usage(4, 2))
    assert engines["c"].cancelled == 1


async def test_leaving_while_several_are_asked_stops_them_all() -> None:
    specs = {id_: ScriptedSpec(default="no", tokens_per_s=1.0) for id_ in "ab"}
    composition, _ = _composed(specs, TopK(2))
    hung = {"a": asyncio.Event(), "b": asyncio.Event()}
    engines = {id_: _hanging(composition.router.pool.expert(id_), hung[id_]) for id_ in hung}
    composition = Composition(composition.router, engines)
    task = asyncio.ensure_future(_answered(composition))
    await asyncio.gather(*(event.wait() for event in hung.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [engine.cancelled for engine in engines.values()] == [1, 1]


async def test_an_unreadable_answer_is_replaced_under_fallback() -> None:
    specs = {
        "a": _says("I\ncannot say"),
        "b": _says("The answer is (B)"),
        "c": _says("The answer is (C)"),
    }
    aggregator = MajorityVote(read=stated_answer)
    composition, engines = _composed(specs, FallbackOnUnreadable(3), aggregator)
    text, experts, usage = await _answered(composition)
    assert (text, experts) == ("The answer is (B)", ("a", "b"))
    assert usage == Usage(4, 3 + 4)
    assert len(engines["c"].requests) == 0


async def test_a_failed_expert_is_replaced_under_fallback() -> None:
    specs = {"a": DEAD, "b": _says("The answer is (B)")}
    composition, _ = _composed(specs, FallbackOnUnreadable(2), MajorityVote(read=stated_answer))
    assert (await _answered(composition))[:2] == ("The answer is (B)", ("b",))


@pytest.mark.parametrize(("second", "expected"), [("(A)", ("a", "b")), ("(B)", ("a", "b", "c"))])
async def test_a_vote_in_turn_asks_on_only_while_it_is_open(
    second: str, expected: tuple[str, ...]
) -> None:
    specs = {"a": _says("(A)"), "b": _says(second), "c": _says("(A)")}
    composition, _ = _composed(specs, EarlyStoppingVote(3), MajorityVote(read=stated_answer))
    assert (await _answered(composition))[:2] == ("(A)", expected)


async def test_an_adaptive_vote_sees_the_scores_of_the_query() -> None:
    specs = {"a": _says("(A)"), "b": _says("(B)"), "c": _says("(B)")}
    trusting, _ = _composed(specs, AdaptiveVote(3, confidence=0.85), First())
    asking, _ = _composed(specs, AdaptiveVote(3, confidence=0.95), First())
    assert (await _answered(trusting))[1] == ("a",)
    assert (await _answered(asking))[1] == ("a", "b", "c")


async def test_all_failing_in_turn_raises_the_first_error() -> None:
    composition, _ = _composed({"a": DEAD, "b": DEAD}, EarlyStoppingVote(2))
    with pytest.raises(UpstreamError, match="'a'"):
        await _answered(composition)


async def test_each_expert_of_a_chain_sees_the_answer_before_its_own() -> None:
    specs = {"a": _says("first draft"), "b": DEAD, "c": _says("final word")}
    composition, engines = _composed(specs, TopK(3), Chain())
    text, experts, _ = await _answered(composition)
    assert (text, experts) == ("final word", ("a", "c"))
    assert engines["a"].requests[0] == _request()
    assert "first draft" in engines["c"].requests[0].messages[-1].content


async def test_a_session_stays_with_its_expert_until_another_is_much_better() -> None:
    specs = {"a": _says("a"), "b": _says("b")}
    composition, _ = _composed(specs, SessionAffinity(TopK(1), switch_cost=0.2))
    first = GenerationRequest(_request().messages, session="s")
    await composition.complete(first, composition.decide(first, pinned="b"))
    assert composition.decide(first).experts == ("b",)
    other = GenerationRequest(_request().messages, session="t")
    assert composition.decide(other).experts == ("a",)
    eager, _ = _composed(specs, SessionAffinity(TopK(1), switch_cost=0.05))
    await eager.complete(first, eager.decide(first, pinned="b"))
    assert eager.decide(first).experts == ("a",)


def test_sessions_forget_the_one_not_heard_of_for_longest() -> None:
    sessions = Sessions(capacity=2)
    for session, expert in [("s", "a"), ("t", "b"), ("s", "c"), ("u", "d"), (None, "e")]:
        sessions.answered(session, expert)
    assert [sessions.last_expert(s) for s in ("s", "t", "u", None)] == ["c", None, "d", None]
    assert len(sessions) == 2


async def test_an_answer_written_from_the_others_counts_its_own_tokens() -> None:
    specs = {"a": _says("one"), "b": _says("two"), "w": _says("both together")}
    composition, engines = _composed(specs, TopK(2))
    composition = Composition(composition.router, engines, LLMAggregator(engines["w"]))
    text, experts, usage = await _answered(composition)
    asked = engines["w"].requests[0].messages
    n_asked = sum(len(message.content.split()) for message in asked)
    assert (text, experts) == ("both together", ("a", "b"))
    assert usage == Usage(2 + 2 + n_asked, 1 + 1 + 2)


async def test_a_writer_that_fails_leaves_the_answer_to_the_vote() -> None:
    specs = {"a": _says("one"), "b": _says("two"), "w": DEAD}
    composition, engines = _composed(specs, TopK(2))
    composition = Composition(composition.router, engines, LLMAggregator(engines["w"]))
    text, _, usage = await _answered(composition)
    assert (text, usage) == ("one", Usage(4, 2))


async def test_routing_by_an_adaptive_policy_names_the_first_expert() -> None:
    composition, _ = _composed({"a": DEAD, "b": DEAD}, EarlyStoppingVote(2))
    decision = composition.router.route("hello")
    assert decision.experts == ("a",)
    assert "may ask further experts" in decision.reasons[-1]


async def test_a_replacement_keeps_to_the_limit_on_cost() -> None:
    specs = {"a": DEAD, "big": _says("big"), "c": _says("c")}
    params = {"a": 1.0, "big": 400.0, "c": 2.0}
    policy = WithinLimit(TopK(1), "params_active_b", 5.0)
    composition, _ = _composed(specs, policy, params_active_b=params)
    assert (await _answered(composition))[1] == ("c",)


async def test_a_replacement_is_one_of_the_experts_that_are_considered() -> None:
    specs = {"a": DEAD, "b": _says("b"), "c": _says("c")}
    composition, _ = _composed(specs, SessionAffinity(Among(TopK(1), ("a", "c")), 0.1))
    assert (await _answered(composition))[1] == ("c",)
    alone, _ = _composed(specs, Among(TopK(1), ("a",)))
    with pytest.raises(UpstreamError, match="'a'"):
        await _answered(alone)


async def test_a_session_remembers_who_led_several() -> None:
    specs = {"a": DEAD, "b": _says("b"), "c": _says("c")}
    composition, engines = _composed(specs, SessionAffinity(TopK(2), switch_cost=0.5))
    request = GenerationRequest(_request().messages, session="s")
    await composition.complete(request, composition.decide(request))
    assert len(engines["a"].requests) == 1
    assert composition.decide(request).experts[0] == "b"


async def test_first_is_the_first_that_can_be_read() -> None:
    specs = {"a": _says("I\ncannot say"), "b": _says("The answer is (B)")}
    composition, _ = _composed(specs, FallbackOnUnreadable(2), First(read=stated_answer))
    assert (await _answered(composition))[0] == "The answer is (B)"


async def test_engines_are_stopped_even_if_closing_fails() -> None:
    composition, engines = _composed({"a": _says("a")}, TopK(1))

    async def fails(_: float) -> None:
        raise RuntimeError("no")

    composition = Composition(composition.router, engines, close=fails)
    await composition.complete(_request(), composition.decide(_request()))
    with pytest.raises(RuntimeError):
        await composition.stop()
    assert engines["a"].state is EngineState.STOPPED
