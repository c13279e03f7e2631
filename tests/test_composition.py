"""Route, generate, aggregate: one answer whatever was decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coe.aggregation import Aggregator, First, MajorityVote
from coe.composition import Composition
from coe.engines.scripted import ScriptedEngine
from coe.errors import UnknownExpert, UpstreamError
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.policies import TopK
from coe.routing import FloatArray, Router
from coe.types import GenerationRequest, Message, Query, SamplingParams, Usage


class FixedScorer:
    name = "fixed"

    def __init__(self, expert_ids: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)

    def score(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(-np.arange(len(self.expert_ids), dtype=float), (len(queries), 1))


def _composition(
    specs: dict[str, ScriptedSpec], k: int = 1, aggregator: Aggregator | None = None
) -> tuple[Composition, dict[str, ScriptedEngine]]:
    pool = ExpertPool(tuple(Expert(id_, spec) for id_, spec in specs.items()))
    engines = {expert.id: ScriptedEngine(expert) for expert in pool}
    return Composition(Router(FixedScorer(pool.ids), TopK(k), pool), engines, aggregator), engines


def _request(text: str = "hello there") -> GenerationRequest:
    return GenerationRequest((Message("user", text),), id="q")


SAYS = {id_: ScriptedSpec(default=text) for id_, text in [("a", "Yes"), ("b", "no"), ("c", "NO")]}
DEAD = ScriptedSpec(default="one two three", fail_after_tokens=1)


async def test_routed_answer_passes_through() -> None:
    composition, engines = _composition(SAYS)
    decision = composition.decide(_request())
    completion = await composition.complete(_request(), decision)
    assert decision.experts == ("a",)
    assert (completion.text, completion.finish_reason) == ("Yes", "stop")
    assert completion.usage == Usage(2, 1)
    assert [len(engine.requests) for engine in engines.values()] == [1, 0, 0]


async def test_pinned_expert_answers_whatever_the_router_says() -> None:
    composition, _ = _composition(SAYS)
    decision = composition.decide(_request(), pinned="b")
    assert decision.router == "pinned"
    assert (await composition.complete(_request(), decision)).text == "no"
    with pytest.raises(UnknownExpert):
        composition.decide(_request(), pinned="z")


async def test_recruited_experts_vote() -> None:
    composition, _ = _composition(SAYS, k=3, aggregator=MajorityVote())
    completion = await composition.complete(_request(), composition.decide(_request()))
    assert completion.text == "no"
    assert completion.usage == Usage(6, 3)


async def test_cut_answer_that_wins_the_vote_says_so() -> None:
    request = GenerationRequest(_request().messages, SamplingParams(max_tokens=1))
    long = {id_: ScriptedSpec(default="wrong one") for id_ in ("a", "b")}
    cut, _ = _composition(long, k=2)
    completion = await cut.complete(request, cut.decide(request))
    assert (completion.text, completion.finish_reason) == ("wrong", "length")


async def test_recruited_first_is_the_best_expert() -> None:
    composition, _ = _composition(SAYS, k=3, aggregator=First())
    assert (await composition.complete(_request(), composition.decide(_request()))).text == "Yes"


async def test_recruited_failure_leaves_the_others() -> None:
    composition, _ = _composition({"dead": DEAD, **SAYS}, k=3)
    assert (await composition.complete(_request(), composition.decide(_request()))).text == "Yes"


async def test_all_recruited_failing_raises_the_best_ones_error() -> None:
    composition, _ = _composition({"dead": DEAD, "also": DEAD}, k=2)
    with pytest.raises(UpstreamError, match="'dead'"):
        await composition.complete(_request(), composition.decide(_request()))


async def test_death_in_the_middle_is_never_a_clean_end() -> None:
    composition, _ = _composition({"dead": DEAD})
    stream = composition.stream(_request(), composition.decide(_request()))
    assert (await anext(stream)).text == "one"
    with pytest.raises(UpstreamError):
        await anext(stream)


async def test_closing_the_stream_cancels_the_expert() -> None:
    composition, engines = _composition({"a": ScriptedSpec(default="one two three")})
    stream = composition.stream(_request(), composition.decide(_request()))
    assert (await anext(stream)).text == "one"
    await stream.aclose()
    assert engines["a"].cancelled == 1


def test_every_expert_needs_an_engine() -> None:
    composition, engines = _composition(SAYS)
    del engines["b"]
    with pytest.raises(UnknownExpert, match="'b'"):
        Composition(composition.router, engines)


async def test_majority_prefers_the_better_expert_among_equals() -> None:
    composition, _ = _composition(SAYS, k=2, aggregator=MajorityVote())
    assert (await composition.complete(_request(), composition.decide(_request()))).text == "Yes"
