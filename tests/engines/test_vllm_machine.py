"""Experts under a scheduler while everything goes wrong: model-based, in virtual time.

A device with room for two of three experts, requests, deaths, and a fault at any transition.
What must hold: no allocation is ever refused and every expert has at most one server (memory
and transitions), no request reaches a sleeping server, every answer is right or an error, and
once nothing goes wrong any more everybody is served again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from coe.engines.base import collect
from coe.engines.fake_device import MemoryDevice
from coe.engines.fake_faults import Fault, Faults
from coe.engines.fake_vllm_core import FakeSize, FakeVllm
from coe.engines.fake_vllm_inside import InsideEngine
from coe.engines.vllm_phase import Phase
from coe.errors import CoeError
from coe.experts import Expert, VllmSpec
from coe.scheduling import Site, SwapRules, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.types import GenerationRequest, Message

SIZE = FakeSize(weights_gib=4.0, kv_gib=2.0, overhead_gib=0.5)
CAPACITY_GIB = 14.0
LEVELS = {"one": 1, "two": 2, "none": 0}
T = TypeVar("T")


class VirtualTime(asyncio.SelectorEventLoop):
    """Jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        loop: Any = self
        due_s = [timer._when for timer in loop._scheduled if not timer._cancelled]
        if not loop._ready and due_s:
            self._now_s = max(self._now_s, min(due_s))
        super()._run_once()  # type: ignore[misc]


class World:
    """The pool, and what can be done to it. Faults are the pool's: whoever comes first has it."""

    def __init__(self) -> None:
        self.loop = VirtualTime()
        self.device = MemoryDevice(CAPACITY_GIB)
        self.faults = Faults()
        self.inner: dict[str, InsideEngine] = {}
        for name, level in LEVELS.items():
            expert = Expert(name, VllmSpec("m", sleep_level=level, drain_s=1.0))
            self.inner[name] = InsideEngine(expert, lambda expert=expert: self._core(expert))  # type: ignore[misc]
        site = Site({"gpu": CAPACITY_GIB}, tuple(map(self._tenant, LEVELS)), host_gib=100.0)
        self.dispatcher = Dispatcher(
            self.inner,
            lambda effects: SwapScheduler(site, effects, SwapRules(max_wait_s=20.0)),
            startup_timeout_s=90.0,
        )
        self.engines = {n: HostedEngine(e, self.dispatcher) for n, e in self.inner.items()}
        self.asked: list[tuple[str, asyncio.Task[str]]] = []
        self.n_right = 0
        self.n_errors = 0

    def _core(self, expert: Expert) -> FakeVllm:
        return FakeVllm(
            expert, lambda _: f"{expert.id} says so", self.device, SIZE, faults=self.faults
        )

    def _tenant(self, name: str) -> Tenant:
        asleep_gib = 4.0 if LEVELS[name] else None
        return Tenant(name, gib=6.5, asleep_gib=asleep_gib, residue_gib=0.5, max_in_flight=4)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def ask(self, name: str) -> None:
        async def answer() -> str:
            request = GenerationRequest((Message("user", "question"),))
            return (await collect(name, self.engines[name].stream(request))).text

        self.asked.append((name, self.loop.create_task(answer())))

    def kill(self, name: str) -> None:
        server = self.inner[name].life.server
        if server is not None:
            server.die()

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def turn(self) -> None:
        """One turn of the loop: transitions are seen half done."""
        self.run(asyncio.sleep(0))

    def check(self) -> None:
        assert self.device.n_refused == 0
        for name, engine in self.inner.items():
            living = [core for core in engine.launcher.cores if not core.death.is_set()]
            assert len(living) <= 1, f"{name} has {len(living)} servers"
            assert sum(core.n_misdirected for core in engine.launcher.cores) == 0
            if engine.life.phase is Phase.AWAKE and engine.life.server is not None:
                assert not engine.life.server.core.is_sleeping
            del engine.launcher.cores[:-2]
        for name, task in self.asked:
            if task.done():
                self._judge(name, task)
        self.asked = [(name, task) for name, task in self.asked if not task.done()]

    def _judge(self, name: str, task: asyncio.Task[str]) -> None:
        error = task.exception()
        if error is None:
            assert task.result() == f"{name} says so", "a wrong answer was passed off as right"
            self.n_right += 1
        else:
            assert isinstance(error, CoeError), repr(error)
            self.n_errors += 1

    def recover(self) -> None:
        """With nothing wrong any more, all who wait are answered and every expert serves."""
        self.faults.clear()
        self.wait(600.0)
        self.check()
        assert self.asked == [], "somebody waits for ever"
        for name in LEVELS:
            self.ask(name)
        self.wait(600.0)
        assert [task.result() for _, task in self.asked] == [f"{n} says so" for n in LEVELS]
        self.check()

    def close(self) -> None:
        self.run(self.dispatcher.shut_down(60.0))
        assert self.device.total_gib == 0.0
        for _, task in self.asked:
            task.cancel()
        self.run(asyncio.sleep(0.1))
        self.loop.close()


NAMES = st.sampled_from(sorted(LEVELS))
# A stream that hangs is ended by its reader's time-out, which is not part of this.
FAULTS = [fault for fault in Fault if fault is not Fault.HANG_MID_STREAM]


class SwapMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(name=NAMES, times=st.integers(1, 3))
    def ask(self, name: str, times: int) -> None:
        for _ in range(times):
            self.world.ask(name)

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 2))
    def break_something(self, fault: Fault, times: int) -> None:
        self.world.faults.set(fault, times)

    @rule(name=NAMES)
    def kill(self, name: str) -> None:
        self.world.kill(name)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule()
    def turn(self) -> None:
        self.world.turn()

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.recover()
        self.world.close()


TestSwapMachine = SwapMachine.TestCase
TestSwapMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True
)


def _random_step(world: World, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.35:
        world.ask(rng.choice(sorted(LEVELS)))
    elif kind < 0.39:
        world.faults.set(rng.choice(FAULTS), rng.randint(1, 2))
    elif kind < 0.41:
        world.kill(rng.choice(sorted(LEVELS)))
    elif kind < 0.75:
        world.wait(rng.choice([0.01, 0.1, 1.0, 5.0]))
    else:
        world.turn()


def _walk(n_steps: int, seed: int) -> World:
    world = World()
    rng = random.Random(seed)
    for step in range(n_steps):
        _random_step(world, rng)
        world.check()
        if step % 500 == 499:
            world.recover()
    world.recover()
    world.close()
    return world


def test_a_short_walk_meets_answers_faults_and_swaps() -> None:
    world = _walk(1_000, seed=1)
    scheduler = world.dispatcher.scheduler
    assert isinstance(scheduler, SwapScheduler)
    counts = scheduler.counts
    assert min(world.n_right, world.n_errors, counts.wakes, counts.sleeps, counts.failures) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_steps() -> None:
    for seed in range(20):
        _walk(5_000, seed)
