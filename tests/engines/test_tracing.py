"""Tracing sees through what is around an engine, and keeps to its turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coe.engines.breaking import BreakingEngine
from coe.engines.limited import LimitedEngine
from coe.engines.local import LocalEngine
from coe.engines.local_memory import LocalMemory
from coe.engines.retrying import RetryingEngine
from coe.engines.scripted import ScriptedEngine
from coe.engines.tracing import trace
from coe.errors import AdmissionError, ConfigError
from coe.experts import Expert, LocalSpec, ScriptedSpec
from coe.scheduling import Site, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.types import GenerationRequest

Ask = Callable[..., GenerationRequest]


@pytest.fixture
def sparse(repository: Path) -> LocalEngine:
    path = repository / "coe" / "zoo" / "weights" / "generalist"
    expert = Expert("sparse", LocalSpec(str(path)), context_tokens=256, max_tokens=8)
    return LocalEngine(expert, LocalMemory(1.0))


async def test_trace_of_a_hosted_and_guarded_expert_is_that_of_the_bare_one(
    sparse: LocalEngine, ask: Ask
) -> None:
    request = ask("What is the capital of France?")
    bare = await trace(sparse, request)
    site = Site({"cpu": 1.0}, (Tenant("sparse", gib=0.5),))
    dispatcher = Dispatcher({"sparse": sparse}, lambda effects: SwapScheduler(site, effects))
    hosted = HostedEngine(sparse, dispatcher)
    engine = LimitedEngine(BreakingEngine(RetryingEngine(hosted)), 1, 1)
    traced = await trace(engine, request)
    assert traced.text == bare.text
    assert (traced.routed_experts.chosen == bare.routed_experts.chosen).all()
    counts = dispatcher.scheduler.counts  # type: ignore[attr-defined]
    assert (counts.granted, counts.finished) == (1, 1)

    await dispatcher.shut_down(5.0)
    with pytest.raises(AdmissionError):
        await trace(engine, request)


async def test_trace_refuses_an_expert_that_cannot_tell_whatever_is_around_it(ask: Ask) -> None:
    engine = RetryingEngine(ScriptedEngine(Expert("e", ScriptedSpec())))
    with pytest.raises(ConfigError, match="'e' cannot be traced"):
        await trace(engine, ask())
