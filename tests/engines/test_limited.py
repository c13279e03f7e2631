"""The bound on what is asked at once: model-based, and case by case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coe.engines.base import collect
from coe.engines.breaking import BreakingEngine
from coe.engines.limited import LimitedEngine, all_full
from coe.engines.scripted import ScriptedEngine
from coe.errors import DeadlineExceeded, QueueFull, UpstreamError
from coe.experts import Expert, ScriptedSpec
from coe.types import Completion, Delta, GenerationRequest, Message

Ask = Callable[..., GenerationRequest]


class Held(ScriptedEngine):
    """Answers each request when the test says so."""

    def __init__(self) -> None:
        super().__init__(Expert("e", ScriptedSpec()))
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Future[None]] = {}

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.begun.append(request.id)
        self.ends[request.id] = asyncio.get_running_loop().create_future()
        try:
            await self.ends[request.id]
            yield Delta(text=request.id)
            yield Delta(finish_reason="stop")
        finally:
            del self.ends[request.id]


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


def request_of(id: str, priority: int = 0) -> GenerationRequest:
    return GenerationRequest((Message("user", "q"),), id=id, priority=priority)


def started(engine: LimitedEngine, request: GenerationRequest) -> asyncio.Task[Completion]:
    return asyncio.create_task(collect("e", engine.stream(request)))


async def test_limited_runs_so_many_and_grants_by_priority_then_arrival() -> None:
    inner = Held()
    engine = LimitedEngine(inner, 1, 10)
    tasks = {}
    for id, priority in (("a", 0), ("b", 0), ("c", 0), ("d", 5)):
        tasks[id] = started(engine, request_of(id, priority))
        await settle()
    assert inner.begun == ["a"]
    for id in ("a", "d", "b", "c"):
        inner.ends[id].set_result(None)
        assert (await tasks[id]).text == id
        await settle()
    assert inner.begun == ["a", "d", "b", "c"]
    assert (engine.n_in_flight, engine.n_waiting) == (0, 0)


async def test_limited_refuses_when_full_and_says_when_by_the_measured_rate() -> None:
    now = [0.0]
    inner = Held()
    engine = LimitedEngine(inner, 2, 0, clock=lambda: now[0])
    first = started(engine, request_of("first"))
    await settle()
    now[0] = 8.0
    inner.ends["first"].set_result(None)
    await first
    running = [started(engine, request_of(id)) for id in "ab"]
    await settle()
    waits = []
    for _ in range(3):
        with pytest.raises(QueueFull, match="0 requests already wait for expert 'e'") as caught:
            await collect("e", engine.stream(request_of("x")))
        waits.append(caught.value.retry_after_s)
    # Two places held 8 s each: one comes free every 4 s.
    assert waits == [4.0, 8.0, 12.0]
    now[0] = 16.0
    inner.ends["a"].set_result(None)
    await running[0]
    running.append(started(engine, request_of("c")))
    await settle()
    with pytest.raises(QueueFull) as caught:
        await collect("e", engine.stream(request_of("x")))
    # One place has come free for the three turned away before, and this one is behind two.
    assert caught.value.retry_after_s == 12.0
    for id in "bc":
        inner.ends[id].set_result(None)
    await asyncio.gather(*running)


async def test_limited_passes_a_place_on_that_was_granted_and_cancelled_at_once() -> None:
    inner = Held()
    engine = LimitedEngine(inner, 1, 5)
    tasks = [started(engine, request_of(id)) for id in "abc"]
    await settle()
    inner.ends["a"].set_result(None)
    while not tasks[0].done():
        await asyncio.sleep(0)
    tasks[1].cancel()
    await settle()
    assert "c" in inner.ends
    inner.ends["c"].set_result(None)
    assert (await tasks[2]).text == "c"
    assert (engine.n_in_flight, engine.n_waiting) == (0, 0)


async def test_limited_frees_the_place_of_a_stream_that_is_closed(ask: Ask) -> None:
    inner = ScriptedEngine(Expert("e", ScriptedSpec(default="a b c")))
    engine = LimitedEngine(inner, 1, 0)
    stream = cast(AsyncGenerator[Delta, None], engine.stream(ask()))
    await anext(stream)
    assert engine.n_in_flight == 1
    await stream.aclose()
    assert (engine.n_in_flight, inner.cancelled) == (0, 1)
    assert (await collect("e", engine.stream(ask()))).text == "a b c"


async def test_limited_ends_the_wait_of_one_whose_deadline_passes() -> None:
    inner = Held()
    engine = LimitedEngine(inner, 1, 5)
    running = started(engine, request_of("a"))
    await settle()
    late = replace(request_of("b"), deadline_s=asyncio.get_running_loop().time() - 1)
    with pytest.raises(DeadlineExceeded, match="expert 'e' is busy"):
        await collect("e", engine.stream(late))
    assert engine.n_waiting == 0
    inner.ends["a"].set_result(None)
    await running
    assert inner.begun == ["a"]


async def test_limited_stop_turns_away_those_who_wait_and_serves_later_ones() -> None:
    inner = Held()
    engine = LimitedEngine(inner, 1, 5)
    running, waiting = started(engine, request_of("a")), started(engine, request_of("b"))
    await settle()
    await engine.stop(1)
    with pytest.raises(UpstreamError, match="was stopped while this request waited"):
        await waiting
    inner.ends["a"].set_result(None)
    await running
    later = started(engine, request_of("c"))
    await settle()
    inner.ends["c"].set_result(None)
    assert (await later).text == "c"
    assert inner.begun == ["a", "c"]


class LimitMachine(RuleBasedStateMachine):
    """Two places and a line of three, against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.inner = Held()
        self.engine = LimitedEngine(self.inner, 2, 3)
        self.tasks: dict[str, asyncio.Task[Completion]] = {}
        self.running: list[str] = []
        self.waiting: list[tuple[int, int, str]] = []
        self.n_asked = 0

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self._settle()
        self.loop.close()
        assert all(task.cancelled() for task in self.tasks.values())
        assert (self.engine.n_in_flight, self.engine.n_waiting) == (0, 0)

    def _settle(self) -> None:
        self.loop.run_until_complete(settle())

    def _grant(self) -> None:
        while self.waiting and len(self.running) < 2:
            self.running.append(min(self.waiting)[2])
            self.waiting.remove(min(self.waiting))

    @rule(priority=st.integers(0, 2))
    def arrive(self, priority: int) -> None:
        id, self.n_asked = f"r{self.n_asked}", self.n_asked + 1
        is_full = len(self.running) == 2 and len(self.waiting) == 3
        self.tasks[id] = self.loop.create_task(
            collect("e", self.engine.stream(request_of(id, priority)))
        )
        self._settle()
        if is_full:
            assert isinstance(self.tasks.pop(id).exception(), QueueFull)
        else:
            self.waiting.append((-priority, self.n_asked, id))
            self._grant()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        id = data.draw(st.sampled_from(self.running))
        if fails:
            self.inner.ends[id].set_exception(UpstreamError("e", "failed"))
        else:
            self.inner.ends[id].set_result(None)
        self._settle()
        task = self.tasks.pop(id)
        assert task.done()
        assert (task.exception() is not None) == fails
        self.running.remove(id)
        self._grant()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), n=st.integers(1, 3))
    def cancel(self, data: st.DataObject, n: int) -> None:
        for id in data.draw(st.lists(st.sampled_from(sorted(self.tasks)), max_size=n, unique=True)):
            self.tasks.pop(id).cancel()
            self.running = [other for other in self.running if other != id]
            self.waiting = [entry for entry in self.waiting if entry[2] != id]
        self._settle()
        self._grant()

    @invariant()
    def runs_what_the_model_runs(self) -> None:
        assert sorted(self.inner.ends) == sorted(self.running)
        assert self.engine.n_in_flight == len(self.running)
        assert self.engine.n_waiting == len(self.waiting)


LimitMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_limited_keeps_to_its_model = LimitMachine.TestCase


async def test_all_full_speaks_for_the_bound_that_has_a_place_first() -> None:
    now = [0.0]
    slow, fast = (LimitedEngine(Held(), n, 0, clock=lambda: now[0]) for n in (1, 2))
    assert all_full(()) is None
    assert all_full((slow, fast)) is None
    tasks = [started(slow, request_of("a"))]
    await settle()
    assert slow.is_full
    assert all_full((slow, fast)) is None
    tasks += [started(fast, request_of(id)) for id in ("b", "c")]
    await settle()
    # Two at once of what takes as long as far as is known: half the time until a place is free.
    waits_s = [full.retry_after_s for _ in range(3) if (full := all_full((slow, fast))) is not None]
    assert waits_s == [0.5, 1.0, 1.0]
    assert all_full((slow, fast, Held())) is None  # nobody knows how many that one takes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_all_full_finds_the_bound_below_other_wrappers() -> None:
    inner = Held()
    bound = LimitedEngine(inner, 1, 1)
    engine = BreakingEngine(bound)
    tasks = [started(bound, request_of(id)) for id in ("a", "b")]
    await settle()
    assert all_full((engine,)) is not None
    inner.ends["a"].set_result(None)
    await settle()
    assert all_full((engine,)) is None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_is_sent_away_for_ever_however_many_are() -> None:
    inner = Held()
    engine = LimitedEngine(inner, 1, 0)
    running = started(engine, request_of("a"))
    await settle()
    waits_s = [engine.turned_away().retry_after_s for _ in range(1000)]
    assert max(waits_s) == waits_s[-1] == 9.0
    inner.ends["a"].set_result(None)
    await running
    assert engine.wait_s < 1.5, "all is free again"
