"""A vLLM engine over a real child process: the fake that ships, and processes that fail."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.family import family
from coe.engines.vllm import VllmEngine
from coe.engines.vllm_lora import VllmLoraEngine
from coe.engines.vllm_trace import trace
from coe.errors import ConfigError, EngineError, StartupError, UpstreamError
from coe.experts import Expert, FlagValue, ScriptedSpec, VllmSpec
from coe.scheduling.abilities import Mortal, Placed, Sleeper
from coe.types import GenerationRequest

Ask = Callable[..., GenerationRequest]
Make = Callable[..., VllmEngine]

FAKE = (sys.executable, "-m", "coe.engines.fake_vllm")
QUICK: dict[str, FlagValue] = {
    "fake-load-s": 0.0, "fake-sleep-s": 0.0, "fake-wake-s": 0.0, "fake-step-s": 0.001,
}  # fmt: skip


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def engine(command: tuple[str, ...] = FAKE, **more: object) -> VllmEngine:
            flags = {**QUICK, **more.pop("flags", {})}  # type: ignore[dict-item]
            spec = VllmSpec("m", command, flags, drain_s=0.1, **more)  # type: ignore[arg-type]
            made = VllmEngine(Expert("e", spec), tmp_path, startup_timeout_s=30.0)
            stack.push_async_callback(made.stop, 1.0)
            return made

        yield engine


async def test_a_server_is_started_asked_put_to_sleep_woken_and_found_dead(
    make: Make, ask: Ask
) -> None:
    engine = make(sleep_level=2)
    assert isinstance(engine, Sleeper)
    assert isinstance(engine, Mortal)
    assert isinstance(engine, Placed)
    completion = await collect("e", engine.stream(ask("hello there")))
    assert completion.text == "e has read: hello there"
    assert await engine.sleep(5.0) == pytest.approx(0.1)
    assert _state(engine) is EngineState.ASLEEP
    assert (await collect("e", engine.stream(ask("hello there")))).text == completion.text
    async with engine.running() as server:
        pid, token = server.pid, server.token
        metrics = await server.control.metrics()
    assert metrics["vllm:sleep_mode_operation_duration_seconds_count"] == 3.0
    died = asyncio.Event()
    engine.on_death(died.set)
    stream = engine.stream(ask("word " * 200))
    await anext(stream)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UpstreamError, match=r"killed by SIGKILL(.|\n)*startup complete"):
        [_ async for _ in stream]
    await died.wait()
    assert family(token) == set()
    assert _state(engine) is EngineState.FAILED


async def test_adapters_share_the_server_of_a_base_that_tells_its_sparse_experts(
    make: Make, ask: Ask, tmp_path: Path
) -> None:
    base = make(flags={"enable-lora": True, "enable-return-routed-experts": True}, uds=True)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    lora = VllmLoraEngine(Expert("lora", ScriptedSpec()), base, adapter)
    missing = VllmLoraEngine(Expert("none", ScriptedSpec()), base, tmp_path / "no")
    assert (await collect("lora", lora.stream(ask("hi")))).text == "lora: e has read: hi"
    assert (await collect("e", base.stream(ask("hi")))).text == "e has read: hi"
    with pytest.raises(StartupError, match=r"'none'.*no adapter in"):
        await missing.ensure_ready(5.0)
    await lora.stop(5.0)
    async with base.running() as server:
        assert server.adapters == set()
        with pytest.raises(EngineError, match="cannot be found"):
            await server.control.unload_adapter("lora", 5.0)
    await lora.ensure_ready(5.0)
    traced = await trace(base, ask("hi"))
    assert traced.text == "e has read: hi"
    assert traced.routed_experts is not None
    assert traced.routed_experts.chosen.shape == (4, 2, 2)


def test_an_adapter_needs_a_base_that_takes_adapters(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enable-lora: true"):
        VllmLoraEngine(Expert("lora", ScriptedSpec()), make(), tmp_path)


async def test_a_missing_vllm_is_told_with_the_remedy(make: Make) -> None:
    engine = make(("no-such-vllm", "serve"))
    with pytest.raises(StartupError, match=r"'e'.*'no-such-vllm'.*command"):
        await engine.ensure_ready(5.0)
    assert _state(engine) is EngineState.FAILED


async def test_a_port_in_use_is_told_before_anything_starts(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"'e'.*{port}"):
            await make(port=port).ensure_ready(5.0)


async def test_a_socket_whose_path_is_too_long_is_told_with_the_remedy(tmp_path: Path) -> None:
    expert = Expert("e", VllmSpec("m", FAKE, QUICK, uds=True))
    engine = VllmEngine(expert, tmp_path / ("x" * 100), startup_timeout_s=30.0)
    with pytest.raises(StartupError, match=r"'e'.*too long.*use a port, or a state folder nearer"):
        await engine.ensure_ready(5.0)
    await engine.stop(1.0)


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", "lower the flag gpu-memory-utilization"),
        ("ValueError: it is less than desired GPU memory utilization", "end what else uses"),
        ("ValueError: No available memory for the cache blocks.", "raise gpu-memory-utilization"),
        ("ValueError: To serve at least one request with", "lower the flag max-model-len"),
        ("ValueError: Model architectures [X] are not supported for now.", "name a newer vLLM"),
        ("SafetensorError: Error while deserializing header", "copy or download the model"),
        ("RuntimeError: Cannot find any model weights with /m", "copy or download the model"),
        ("OSError: Repo id must be in the form", "correct the expert's model"),
        ("api_server.py: error: unrecognized arguments: --x", "correct the expert's flags"),
        ("No module named vllm", "command name the Python"),
    ],
)
async def test_a_failing_start_is_explained_by_its_log(make: Make, says: str, remedy: str) -> None:
    engine = make(("/bin/sh", "-c", f"echo '{says}'; exit 1"))
    with pytest.raises(StartupError) as caught:
        await engine.ensure_ready(5.0)
    assert remedy in str(caught.value)
    assert "ended with status 1" in str(caught.value)
    assert str(caught.value).endswith(says)


async def test_the_first_error_of_a_long_log_is_told_with_its_end(make: Make) -> None:
    script = (
        "echo '(Worker pid=7) ERROR 01-02 03:04:05 [x.py:9] RuntimeError: bad luck'; "
        "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; "
        "echo 'RuntimeError: Engine core initialization failed.'; exit 1"
    )
    with pytest.raises(StartupError) as caught:
        await make(("/bin/sh", "-c", script)).ensure_ready(5.0)
    assert "it began with RuntimeError: bad luck\n" in str(caught.value)
    assert str(caught.value).endswith("Engine core initialization failed.")


async def test_a_start_that_hangs_is_told_with_its_last_words(tmp_path: Path) -> None:
    spec = VllmSpec("m", ("/bin/sh", "-c", "echo loading weights; exec sleep 100"))
    engine = VllmEngine(Expert("e", spec), tmp_path, startup_timeout_s=1.5)
    with pytest.raises(StartupError, match=r"'e'(.|\n)*startup_timeout_s(.|\n)*loading weights"):
        await engine.ensure_ready(5.0)
    assert _state(engine) is EngineState.FAILED


async def test_a_chosen_port_that_is_lost_to_somebody_is_chosen_again(
    make: Make, tmp_path: Path
) -> None:
    script = (
        f"echo x >> {tmp_path}/tries; echo 'OSError: [Errno 98] Address already in use'; exit 1"
    )
    with pytest.raises(StartupError, match="its port is in use"):
        await make(("/bin/sh", "-c", script)).ensure_ready(5.0)
    assert (tmp_path / "tries").read_text() == "x\n" * 3


async def test_one_without_a_sleep_level_cannot_sleep_and_is_not_harmed(make: Make) -> None:
    with pytest.raises(EngineError, match="sleep_level is 0"):
        await make(sleep_level=0).sleep(1.0)


def _state(engine: VllmEngine) -> EngineState:
    # mypy takes a property for a constant; a call it reads anew.
    return engine.state
