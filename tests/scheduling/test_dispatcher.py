"""A scheduler over running engines: turns are waited for, memory is kept to, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.scripted import ScriptedEngine
from coe.errors import AdmissionError, StartupError
from coe.experts import Expert, ScriptedSpec
from coe.scheduling import Site, SwapRules, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.types import GenerationRequest, Message


class Hosted(ScriptedEngine):
    """Counts its starts, fails them while told to, and can be killed."""

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert)
        self.starts = 0
        self.fails = False
        self.die: Callable[[], None] = lambda: None

    async def _start(self) -> None:
        self.starts += 1
        await asyncio.sleep(0)
        if self.fails:
            raise StartupError(self.expert_id, "no such model")

    def on_death(self, tell: Callable[[], None]) -> None:
        self.die = tell


class Pool:
    """Experts of one GiB each on a device with room for some of them."""

    def __init__(self, names: str = "abc", room: int = 1, rules: SwapRules | None = None) -> None:
        self.inner = {id_: Hosted(Expert(id_, ScriptedSpec(default=id_))) for id_ in names}
        site = Site({"gpu": float(room)}, tuple(Tenant(id_, gib=1.0) for id_ in names))
        self.dispatcher = Dispatcher(
            self.inner, lambda effects: SwapScheduler(site, effects, rules), startup_timeout_s=5
        )
        self.engines = {id_: HostedEngine(e, self.dispatcher) for id_, e in self.inner.items()}
        self.room = room

    async def ask(self, expert_id: str) -> str:
        request = GenerationRequest((Message("user", "hi"),))
        completion = await collect(expert_id, self.engines[expert_id].stream(request))
        n_ready = sum(engine.state is EngineState.READY for engine in self.inner.values())
        assert n_ready <= self.room
        return completion.text

    @property
    def starts(self) -> dict[str, int]:
        return {id_: engine.starts for id_, engine in self.inner.items()}


async def test_requests_are_grouped_so_that_each_expert_starts_once() -> None:
    pool = Pool()
    answers = await asyncio.gather(*(pool.ask(id_) for id_ in "abcabcabc"))
    assert "".join(answers) == "abcabcabc"
    assert pool.starts == {"a": 1, "b": 1, "c": 1}


async def test_room_for_all_keeps_all() -> None:
    pool = Pool(room=3)
    for _ in range(3):
        assert await asyncio.gather(*(pool.ask(id_) for id_ in "abc")) == ["a", "b", "c"]
    assert pool.starts == {"a": 1, "b": 1, "c": 1}


async def test_a_failing_start_is_told_to_those_who_wait_and_to_nobody_else() -> None:
    pool = Pool()
    pool.inner["a"].fails = True
    results = await asyncio.gather(pool.ask("a"), pool.ask("b"), return_exceptions=True)
    assert isinstance(results[0], StartupError)
    assert "no such model" in str(results[0])
    assert results[1] == "b"


async def test_leaving_the_queue_leaves_nothing_behind() -> None:
    pool = Pool()
    waiting = asyncio.ensure_future(pool.ask("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await pool.ask("b") == "b"
    scheduler = pool.dispatcher.scheduler
    assert isinstance(scheduler, SwapScheduler)
    assert scheduler.n_waiting == 0
    assert not any(lane.granted for lane in scheduler.lanes)


async def test_a_dead_expert_is_started_again_when_it_is_asked() -> None:
    pool = Pool(rules=SwapRules(backoff_s=0.0))
    assert await pool.ask("a") == "a"
    await pool.inner["a"].stop(1)
    pool.inner["a"].die()
    assert await pool.ask("a") == "a"
    assert pool.starts["a"] == 2


async def test_shutdown_refuses_those_who_wait_and_stops_everybody() -> None:
    pool = Pool()
    assert await pool.ask("a") == "a"
    await asyncio.gather(*(engine.stop(1.0) for engine in pool.engines.values()))
    assert all(engine.state is EngineState.STOPPED for engine in pool.inner.values())
    with pytest.raises(AdmissionError):
        await pool.ask("b")


async def test_an_impossible_deadline_is_refused_at_once() -> None:
    pool = Pool()
    late = asyncio.get_running_loop().time() - 1.0
    request = GenerationRequest((Message("user", "hi"),), deadline_s=late)
    with pytest.raises(AdmissionError):
        await collect("a", pool.engines["a"].stream(request))
    assert pool.starts["a"] == 0
