"""The fake vLLM over HTTP: the routes, bodies and limits of the real one, and what it costs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coe.engines.fake_device import FileDevice, MemoryDevice, OutOfDeviceMemory
from coe.engines.fake_faults import ALWAYS, Fault, Faults
from coe.engines.fake_vllm import main
from coe.engines.fake_vllm_core import FakeCosts, FakeVllm
from coe.engines.fake_vllm_routes import FakeRoutes
from coe.engines.vllm_control import HttpControl
from coe.errors import ConfigError
from coe.experts import Expert, ScriptedSpec
from coe.types import GenerationRequest, Message

FREE = FakeCosts(0.0, 0.0, 0.0, 0.0, 1e9, 0.0, 0.0)


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str, core: FakeVllm) -> None:
        self.session = session
        self.url = url
        self.core = core

    async def ask(self, verb: str, path: str, **body: object) -> tuple[int, Any]:
        async with self.session.request(verb, self.url + path, json=body or None) as response:
            raw = await response.read()
            try:
                return response.status, json.loads(raw)
            except ValueError:
                return response.status, raw.decode()

    async def chat(self, text: str, model: str = "e", **more: object) -> tuple[int, Any]:
        messages = [{"role": "user", "content": text}]
        return await self.ask(
            "POST", "/v1/chat/completions", model=model, messages=messages, **more
        )


@asynccontextmanager
async def served(
    costs: FakeCosts = FREE, can_sleep: bool = True, has_adapters: bool = True
) -> AsyncIterator[Client]:
    expert = Expert("e", ScriptedSpec(), context_tokens=50)
    core = FakeVllm(
        expert, lambda r: f"heard {r.messages[-1].content}", MemoryDevice(10.0), costs=costs
    )
    await core.load()
    app = FakeRoutes(core, can_sleep=can_sleep, has_adapters=has_adapters).app()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}", core)
    finally:
        await runner.cleanup()


async def test_it_answers_as_an_openai_server_does() -> None:
    async with served() as client:
        status, whole = await client.chat("hi")
        assert (status, whole["choices"][0]["message"]["content"]) == (200, "heard hi")
        assert whole["usage"]["prompt_tokens"] == 1
        status, events = await client.chat("hi", stream=True)
        assert events.endswith("data: [DONE]\n\n")
        assert "heard" in events
        assert (await client.ask("GET", "/v1/models"))[1]["data"] == [{"id": "e"}]
        assert (await client.ask("GET", "/health"))[0] == 200
        assert "version" in (await client.ask("GET", "/version"))[1]
        assert (await client.chat("hi", model="other"))[0] == 404
        status, refused = await client.chat("word " * 60)
        assert status == 400
        assert "context of 50" in refused["error"]["message"]


async def test_a_stranger_on_our_port_is_not_taken_for_our_server() -> None:
    async with served() as client:
        assert await HttpControl("e", client.session, client.url).is_up()
        stranger = HttpControl("other", client.session, client.url)
        assert await stranger.is_healthy()
        assert not await stranger.is_up()


async def test_sleep_routes_are_there_only_if_it_was_started_for_them() -> None:
    async with served(can_sleep=False, has_adapters=False) as client:
        for path in ("/sleep", "/wake_up", "/collective_rpc", "/pause", "/v1/load_lora_adapter"):
            assert (await client.ask("POST", path))[0] == 404


async def test_sleep_and_wake_answer_and_count_as_vllm_s_do() -> None:
    async with served() as client:
        _, asleep = await client.ask("POST", "/sleep?level=2&mode=wait")
        assert asleep == {"status": "sleeping", "level": 2}
        assert (await client.ask("GET", "/is_sleeping"))[1] == {"is_sleeping": True}
        _, half = await client.ask("POST", "/wake_up?tags=weights")
        assert half == {"status": "sleeping", "tags": ["weights"]}
        _, metrics = await client.ask("GET", "/metrics")
        assert 'vllm:engine_sleep_state{model_name="e",sleep_state="discard_all"} 1' in metrics
        assert 'coe:device_memory_held_gib{model_name="e"} 1.1' in metrics
        await client.ask("POST", "/collective_rpc", method="reload_weights")
        _, awake = await client.ask("POST", "/wake_up?tags=kv_cache")
        assert awake["status"] == "awake"
        assert (await client.ask("POST", "/reset_prefix_cache"))[1] == {"success": True}
        assert (await client.chat("hi"))[1]["choices"][0]["message"]["content"] == "heard hi"


async def test_abort_cuts_answers_off_and_wait_does_not() -> None:
    slow = FakeCosts(0.0, 0.0, 0.0, 0.0, 1e9, 0.005, 0.0)
    for mode, has_end in (("abort", False), ("wait", True)):
        async with served(slow) as client:
            answering = asyncio.create_task(client.chat("a b c d e f g h i j", stream=True))
            while client.core.n_running == 0:
                await asyncio.sleep(0)
            await client.ask("POST", f"/sleep?level=1&mode={mode}")
            _, events = await answering
            assert ('"finish_reason":"stop"' in events) is has_end


async def test_a_stale_prefix_cache_answers_wrongly_until_it_is_reset() -> None:
    async with served() as client:
        right = await client.chat("hi")
        await client.ask("POST", "/sleep?level=1&mode=wait")
        await client.ask("POST", "/wake_up")
        assert await client.chat("hi") != right
        await client.ask("POST", "/reset_prefix_cache")
        assert await client.chat("hi") == right


async def test_requests_wait_while_it_is_paused() -> None:
    async with served() as client:
        await client.ask("POST", "/pause")
        assert (await client.ask("GET", "/is_paused"))[1] == {"is_paused": True}
        answering = asyncio.create_task(client.chat("hi"))
        assert (await client.ask("GET", "/health"))[0] == 200
        assert not answering.done()
        await client.ask("POST", "/resume")
        assert (await answering)[0] == 200


async def test_adapters_come_and_go_and_answer_by_their_name(tmp_path: Path) -> None:
    async with served() as client:
        load = {"lora_name": "l", "lora_path": str(tmp_path)}
        assert (await client.ask("POST", "/v1/load_lora_adapter", **load))[0] == 200
        assert (await client.ask("POST", "/v1/load_lora_adapter", **load))[0] == 400
        missing = {"lora_name": "m", "lora_path": str(tmp_path / "no")}
        assert (await client.ask("POST", "/v1/load_lora_adapter", **missing))[0] == 404
        _, answer = await client.chat("hi", model="l")
        assert answer["choices"][0]["message"]["content"] == "l: heard hi"
        assert (await client.ask("POST", "/v1/unload_lora_adapter", lora_name="l"))[0] == 200
        assert (await client.chat("hi", model="l"))[0] == 404


async def test_faults_can_be_set_while_it_runs() -> None:
    async with served() as client:
        await client.ask("POST", "/fake/faults", fault="overload", times=1)
        assert (await client.chat("hi"))[0] == 503
        assert (await client.chat("hi"))[0] == 200


async def test_a_step_costs_more_in_company() -> None:
    costs = FakeCosts(0.0, 0.0, 0.0, 0.0, prefill_tokens_per_s=100.0, step_s=1.0, step_slope_s=0.5)
    core = FakeVllm(Expert("e", ScriptedSpec()), lambda _: "one", MemoryDevice(10.0), costs=costs)
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        await asyncio.sleep(0)

    core.pause = pause

    async def ask() -> None:
        request = GenerationRequest((Message("user", "a b c d"),))
        [_ async for _ in core.stream(request)]

    await ask()
    assert paused == [0.04, 1.5]
    paused.clear()
    await asyncio.gather(ask(), ask())
    assert paused == [0.04, 0.04, 2.0, 2.0]


def test_two_on_one_device_run_out_of_its_memory(tmp_path: Path) -> None:
    mine = FileDevice(tmp_path / "0.json", 10.0)
    other = FileDevice(tmp_path / "0.json", 10.0)
    mine.hold(str(os.getpid()), 6.0)
    with pytest.raises(OutOfDeviceMemory, match=r"allocate 6.00 GiB.*4.00 GiB is free"):
        other.hold(str(os.getppid()), 6.0)
    other.hold(str(os.getppid()), 4.0)
    mine.hold(str(os.getpid()), 0.0)
    other.hold(str(os.getppid()), 10.0)


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "0.json").write_text(json.dumps({"4194304": 9.0}))
    FileDevice(tmp_path / "0.json", 10.0).hold("1", 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_dead_hold_nothing_before_they_are_reaped(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "0.json").write_text(json.dumps({str(dead.pid): 9.0}))
        FileDevice(tmp_path / "0.json", 10.0).hold("1", 10.0)


def test_faults_are_read_with_their_times_and_wrong_ones_named() -> None:
    faults = Faults.parse(["held", "wake-oom:2", "overload:always"])
    assert [faults.take(Fault.HELD) for _ in range(2)] == [True, False]
    assert [faults.take(Fault.WAKE_OOM) for _ in range(3)] == [True, True, False]
    assert all(faults.take(Fault.OVERLOAD) for _ in range(5))
    faults.set(Fault.OVERLOAD, 0)
    assert not faults.take(Fault.OVERLOAD)
    assert ALWAYS < 0
    with pytest.raises(ConfigError, match=r"'wake-om:2'.*did you mean 'wake-oom'"):
        Faults.parse(["wake-om:2"])


def test_a_wrong_fault_ends_it_with_a_word() -> None:
    with pytest.raises(SystemExit, match="no fault"):
        main(["--model", "m", "--fake-faults", "nothing-like-it"])


def test_a_port_in_use_ends_it_as_it_ends_vllm() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        started = time.perf_counter()
        with pytest.raises(SystemExit, match="Address already in use"):
            main(["--model", "m", "--port", str(taken.getsockname()[1]), "--fake-load-s", "60"])
        assert time.perf_counter() - started < 30, "told before the load"
