"""A scheduler over running engines: turns are waited for, memory is kept to, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.scripted import ScriptedEngine
from coe.errors import AdmissionError, ConfigError, EngineError, StartupError, UnknownExpert
from coe.experts import Expert, ScriptedSpec
from coe.scheduling import Residency, Site, SwapRules, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.scheduling.report import DeviceReport
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
    def states(self) -> dict[str, str]:
        return {id_: engine.state.value for id_, engine in self.inner.items()}

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
    await pool.dispatcher.shut_down(1.0)
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


async def test_stop_of_one_expert_leaves_the_others_and_a_request_brings_it_back() -> None:
    pool = Pool(room=2)
    assert await asyncio.gather(*map(pool.ask, "ab")) == ["a", "b"]
    await pool.engines["a"].stop(1.0)
    assert pool.states == {"a": "stopped", "b": "ready", "c": "stopped"}
    assert await pool.ask("a") == "a"
    assert pool.starts == {"a": 2, "b": 1, "c": 0}


async def test_dismissal_waits_for_what_runs_and_goes_on_when_nobody_waits_for_it() -> None:
    pool = Pool()
    async with pool.dispatcher.turn("a"):
        with pytest.raises(EngineError, match="still busy"):
            await pool.engines["a"].stop(0.01)
        assert pool.states["a"] == "ready"
    await pool.dispatcher.dismiss("a", to_disk=True)
    assert pool.states["a"] == "stopped"


async def test_added_expert_answers_and_a_removed_one_is_stopped_for_good() -> None:
    pool = Pool("ab")
    new = Hosted(Expert("new", ScriptedSpec(default="new")))
    pool.dispatcher.add(Tenant("new", 1.0), new)
    pool.inner["new"], pool.engines["new"] = new, HostedEngine(new, pool.dispatcher)
    assert await pool.ask("new") == "new"
    async with pool.dispatcher.turn("new"):
        waiting = asyncio.ensure_future(pool.ask("new"))
        async with pool.dispatcher.turn("new"):
            pass
        leaving = pool.dispatcher.remove("new")
        await asyncio.sleep(0)
        assert not leaving.done()
        with pytest.raises(ConfigError, match="has yet to leave"):
            pool.dispatcher.add(Tenant("new", 1.0), new)
        await asyncio.wait([waiting])
    await leaving
    assert new.state is EngineState.STOPPED
    assert set(pool.dispatcher.engines) == {"a", "b"}
    with pytest.raises(UnknownExpert):
        await pool.ask("new")


async def test_report_tells_who_is_where_and_what_it_took() -> None:
    pool = Pool("ab")
    pool.inner["b"].fails = True
    await pool.ask("a")
    with pytest.raises(StartupError):
        await pool.ask("b")
    async with pool.dispatcher.turn("a"):
        report = pool.dispatcher.report()
    assert report is not None
    [gpu] = report.devices
    assert gpu == DeviceReport("gpu", 1.0, 1.0)
    a, b = report.experts["a"], report.experts["b"]
    assert (a.residency, a.devices, a.running, a.moves.loads) == (Residency.AWAKE, ("gpu",), 1, 2)
    assert (b.residency, b.moves.failures) == (Residency.DISK, 1)
    assert "no such model" in str(b.last_error)
    assert b.retry_in_s is not None
    assert report.counts.loads == 3
    await pool.ask("a")
    assert report.experts["a"].running == 1, "a report is of its moment"
