"""The states of a vLLM server, over a fake inside this process: no seconds pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from coe.engines.base import collect
from coe.engines.fake_device import MemoryDevice
from coe.engines.fake_faults import ALWAYS, Fault, Faults
from coe.engines.fake_vllm_core import FakeSize, FakeVllm
from coe.engines.fake_vllm_inside import InsideLauncher, InsideServer
from coe.engines.vllm_life import Life
from coe.engines.vllm_phase import Phase
from coe.errors import EngineError, StartupError, UpstreamError
from coe.experts import Expert, VllmSpec
from coe.types import GenerationRequest, Message

ANSWER = "a b c d e f g h"
SIZE = FakeSize(weights_gib=4.0, kv_gib=2.0, overhead_gib=0.5)


class Rig:
    """One expert's life, and the means to break it."""

    def __init__(self, level: int = 1, gib: float = 10.0, patience_s: float = 5.0) -> None:
        self.faults = Faults()
        self.answer: Callable[[], str] = lambda: ANSWER
        self.device = MemoryDevice(gib)
        self.expert = Expert("e", VllmSpec("m", sleep_level=level, canary_tokens=4))
        self.launcher = InsideLauncher(self.expert, self._core, health_s=0.01)
        self.life = Life[InsideServer]("e", self.launcher, patience_s, 0.01, drain_s=0.05)
        self.deaths = 0

    def listen(self) -> None:
        """As a scheduler does."""
        self.life.on_death(self._died)

    def _core(self) -> FakeVllm:
        core = FakeVllm(self.expert, lambda _: self.answer(), self.device, SIZE, faults=self.faults)
        core.pause = lambda _: asyncio.sleep(0)
        return core

    def _died(self) -> None:
        assert self.device.total_gib == 0.0, "told before its memory was free"
        self.deaths += 1

    def phase(self) -> Phase:
        # mypy takes a property for a constant; a call it reads anew.
        return self.life.phase

    @property
    def starts(self) -> int:
        return len(self.launcher.cores)

    @property
    def server(self) -> InsideServer:
        assert self.launcher.latest is not None
        return self.launcher.latest

    async def ask(self) -> str:
        async with self.life.guest() as server:
            request = GenerationRequest((Message("user", "question"),))
            return (await collect("e", server.stream(request))).text

    async def cycle(self) -> float | None:
        """One sleep and one wake, checked."""
        residue_gib = await self.life.sleep(1.0)
        assert self.phase() is Phase.ASLEEP
        await self.life.ensure_awake(1.0)
        assert await self.ask() == ANSWER
        assert self.starts == 1 or self.launcher.cores[-1].device_gib == 6.5
        return residue_gib


@pytest.fixture(params=[1, 2])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made = Rig(level=request.param)
    await made.life.ensure_awake(1.0)
    yield made
    made.faults.clear()
    await made.life.end(1.0)
    assert made.device.total_gib == 0.0
    assert sum(core.n_misdirected for core in made.launcher.cores) == 0


async def test_sleep_frees_the_device_and_tells_what_is_left(rig: Rig) -> None:
    assert rig.device.total_gib == 6.5
    assert await rig.life.sleep(1.0) == 0.5
    assert rig.device.total_gib == 0.5
    assert await rig.life.sleep(1.0) == 0.5, "sleeping twice is once"
    assert await rig.ask() == ANSWER
    assert rig.starts == 1
    assert rig.server.core.host_gib == 0.0


async def test_hundred_cycles_answer_the_same(rig: Rig) -> None:
    for _ in range(100):
        assert await rig.cycle() == 0.5
    assert rig.starts == 1


async def test_a_request_under_way_is_waited_for_before_it_sleeps(rig: Rig) -> None:
    answers = [asyncio.create_task(rig.ask()) for _ in range(4)]
    while rig.server.core.n_running < 4:
        await asyncio.sleep(0)
    sleeping = asyncio.create_task(rig.life.sleep(1.0))
    late = asyncio.create_task(rig.ask())
    assert await asyncio.gather(*answers) == [ANSWER] * 4
    assert await sleeping == 0.5
    assert await late == ANSWER, "it came too late, and woke the expert"


async def test_one_that_answers_for_ever_is_not_put_to_sleep_and_not_harmed(rig: Rig) -> None:
    async with rig.life.guest():
        with pytest.raises(EngineError, match=r"still answers after 0\.01 s"):
            await rig.life.sleep(0.01)
        assert rig.phase() is Phase.AWAKE
    assert await rig.life.sleep(1.0) == 0.5


async def test_those_who_ask_during_a_start_share_it() -> None:
    rig = Rig()
    assert await asyncio.gather(*(rig.ask() for _ in range(5))) == [ANSWER] * 5
    assert rig.starts == 1
    await rig.life.end(1.0)


async def test_stop_ends_a_start_under_way_and_leaves_nothing() -> None:
    rig = Rig()
    rig.faults.set(Fault.HANG_AT_START)
    asked = asyncio.create_task(rig.ask())
    while rig.phase() is not Phase.STARTING:
        await asyncio.sleep(0)
    await rig.life.end(1.0)
    with pytest.raises(StartupError, match="stopped while it started"):
        await asked
    assert rig.phase() is Phase.STOPPED
    assert rig.device.total_gib == 0.0


async def test_a_hang_at_start_ends_with_its_patience() -> None:
    rig = Rig(patience_s=0.05)
    rig.faults.set(Fault.HANG_AT_START)
    with pytest.raises(StartupError, match=r"'e'.*0.05 s.*startup_timeout_s"):
        await rig.life.ensure_awake(5.0)
    assert rig.phase() is Phase.FAILED
    assert await rig.ask() == ANSWER
    await rig.life.end(1.0)


async def test_too_little_memory_is_told_and_a_later_start_tries_again() -> None:
    rig = Rig(gib=6.0)
    with pytest.raises(StartupError, match="out of memory"):
        await rig.life.ensure_awake(1.0)
    rig.device.capacity_gib = 7.0
    assert await rig.ask() == ANSWER
    await rig.life.end(1.0)


async def test_a_placement_elsewhere_starts_a_sleeper_anew(rig: Rig) -> None:
    rig.life.place(["gpu1"])
    await rig.life.sleep(1.0)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2
    await rig.life.sleep(1.0)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2


@pytest.mark.parametrize("asleep", [False, True])
async def test_a_death_is_told_once_and_it_can_be_started_again(rig: Rig, asleep: bool) -> None:
    rig.listen()
    if asleep:
        await rig.life.sleep(1.0)
    rig.server.die()
    while not rig.deaths:
        await asyncio.sleep(0)
    assert rig.phase() is Phase.FAILED
    await rig.life.ensure_awake(1.0)
    assert await rig.ask() == ANSWER
    assert (rig.deaths, rig.starts) == (1, 2)


async def test_where_deaths_are_listened_for_a_request_starts_nothing(rig: Rig) -> None:
    rig.listen()
    await rig.life.sleep(1.0)
    with pytest.raises(UpstreamError, match="left the device"):
        await rig.ask()
    assert rig.phase() is Phase.ASLEEP
    waking = asyncio.create_task(rig.life.ensure_awake(1.0))
    await asyncio.sleep(0)
    assert await rig.ask() == ANSWER, "one that is on its way is waited for"
    await waking


async def test_a_request_that_finds_it_dead_tells_its_owner_again(rig: Rig) -> None:
    rig.listen()
    rig.server.die()
    while not rig.deaths:
        await asyncio.sleep(0)
    with pytest.raises(UpstreamError, match="left the device"):
        await rig.ask()
    await asyncio.sleep(0.01)
    assert rig.deaths == 2


async def test_a_death_in_the_middle_of_an_answer_is_an_error_and_told(rig: Rig) -> None:
    rig.listen()
    rig.faults.set(Fault.CRASH_MID_STREAM)
    with pytest.raises(UpstreamError):
        await rig.ask()
    while not rig.deaths:
        await asyncio.sleep(0)
    await rig.life.ensure_awake(1.0)
    assert await rig.ask() == ANSWER
    assert rig.deaths == 1
    assert rig.life.n_deaths == 0, "it answered since"


async def test_deaths_in_a_row_are_counted_and_their_last_words_logged(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.listen()
    for n_deaths in (1, 2):
        await rig.life.ensure_awake(1.0)
        rig.server.die()
        while rig.deaths < n_deaths:
            await asyncio.sleep(0)
    assert "died (2 times in a row): its process was killed by SIGKILL" in caplog.text


async def test_a_server_that_no_longer_says_it_is_healthy_is_as_good_as_dead(rig: Rig) -> None:
    rig.listen()
    rig.server.core.pause = asyncio.sleep
    rig.faults.set(Fault.SLOW_HEALTH, ALWAYS)
    async with asyncio.timeout(5):
        while not rig.deaths:
            await asyncio.sleep(0.001)
    rig.faults.clear()
    await rig.life.ensure_awake(1.0)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2


# The six defects of sleep mode that are known from the field, and their kin.


@pytest.mark.parametrize("fault", [Fault.HELD, Fault.PARTIAL_FREE, Fault.SLEEP_LIES])
async def test_a_sleep_that_frees_too_little_is_a_failure(rig: Rig, fault: Fault) -> None:
    rig.faults.set(fault)
    with pytest.raises(EngineError, match=r"still holds|says that it sleeps and does not"):
        await rig.life.sleep(1.0)
    assert rig.phase() is Phase.FAILED
    assert rig.device.total_gib > 0.0, "told as held, because it is"
    await rig.life.end(1.0)
    assert rig.device.total_gib == 0.0
    assert await rig.ask() == ANSWER


@pytest.mark.parametrize("fault", [Fault.SLEEP_ERROR, Fault.SLEEP_HANG, Fault.CRASH_ON_SLEEP])
async def test_a_sleep_that_fails_is_told_and_the_next_request_starts_it_anew(
    rig: Rig, fault: Fault
) -> None:
    rig.faults.set(fault)
    with pytest.raises(EngineError):
        await rig.life.sleep(0.02)
    assert rig.phase() is Phase.FAILED
    assert await rig.ask() == ANSWER
    assert rig.starts == 2


@pytest.mark.parametrize(
    "fault", [Fault.WAKE_OOM, Fault.WAKE_PARTIAL, Fault.CRASH_ON_WAKE, Fault.RESET_REFUSED]
)
async def test_a_wake_that_fails_becomes_a_start(rig: Rig, fault: Fault) -> None:
    rig.listen()
    await rig.life.sleep(1.0)
    rig.faults.set(fault)
    await rig.life.ensure_awake(1.0)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2
    assert rig.device.total_gib == 6.5, "nothing is leaked"
    assert rig.deaths == 0, "nobody but who asked has to know"


async def test_a_wake_that_hangs_becomes_a_start() -> None:
    rig = Rig(patience_s=0.05)
    await rig.life.ensure_awake(1.0)
    await rig.life.sleep(1.0)
    rig.faults.set(Fault.HANG_ON_WAKE)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2
    await rig.life.end(1.0)


@pytest.mark.parametrize("fault", [Fault.WRONG_WEIGHTS, Fault.RESET_LIES])
async def test_gibberish_after_a_wake_is_found_and_cured_without_a_restart(
    rig: Rig, fault: Fault
) -> None:
    await rig.life.sleep(1.0)
    rig.faults.set(fault)
    assert await rig.ask() == ANSWER
    assert rig.starts == 1


async def test_gibberish_that_reloading_does_not_cure_is_cured_by_a_restart(rig: Rig) -> None:
    await rig.life.sleep(1.0)
    rig.faults.set(Fault.WRONG_WEIGHTS)
    rig.faults.set(Fault.RELOAD_LIES)
    assert await rig.ask() == ANSWER
    assert rig.starts == 2


async def test_waking_in_the_wrong_order_is_gibberish_so_that_the_tests_above_can_fail() -> None:
    rig = Rig(level=2)
    await rig.life.ensure_awake(1.0)
    core = rig.server.core
    await core.sleep(2, "wait")
    await core.wake_up(["weights", "kv_cache"])
    await core.reload_weights()
    core.reset_prefix_cache()
    assert await rig.ask() == ANSWER[::-1]
    await rig.life.end(1.0)


async def test_host_memory_that_grows_from_sleep_to_sleep_ends_in_a_restart() -> None:
    rig = Rig(level=1)
    await rig.life.ensure_awake(1.0)
    rig.faults.set(Fault.HOST_LEAK, ALWAYS)
    await rig.cycle()
    with pytest.raises(EngineError, match=r"4.0 GiB of host memory.*8.0 now"):
        await rig.life.sleep(1.0)
    await rig.life.end(1.0)
    rig.faults.clear()
    assert await rig.ask() == ANSWER
    assert rig.server.core.host_gib == 0.0
    await rig.life.end(1.0)


async def test_an_expert_that_never_repeats_itself_is_not_restarted_for_it() -> None:
    rig = Rig()
    texts = iter(f"text {number}" for number in range(100))
    rig.answer = lambda: next(texts)
    for _ in range(3):
        await rig.life.ensure_awake(1.0)
        await rig.life.sleep(1.0)
    assert rig.starts == 1
    await rig.life.end(1.0)
