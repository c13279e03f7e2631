"""Real vLLM servers that CoE starts, stops, and swaps under load."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from coe.engines.base import EngineState, collect
from coe.engines.claim import Claim
from coe.engines.family import family
from coe.engines.vllm import VllmEngine
from coe.errors import StartupError
from coe.experts import Expert, FlagValue, Footprint, VllmSpec
from coe.scheduling import Site, SwapCosts, SwapScheduler, Tenant
from coe.scheduling.dispatcher import Dispatcher
from coe.scheduling.hosted import HostedEngine
from coe.types import GenerationRequest, Message
from coe.zoo import model_dir
from coe.zoo.grading import is_correct
from coe.zoo.questions import ZooQuestion, zoo_questions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VENV = Path(__file__).resolve().parents[2] / ".venv-vllm"
PATIENCE_S = 300.0
N_EACH = 24
FLAGS: dict[str, FlagValue] = {"dtype": "float32", "max-model-len": 256, "enforce-eager": True}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}

Make = Callable[..., VllmEngine]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Engines on zoo models, stopped afterwards."""
    if not (VENV / ".installed").is_file():
        pytest.fail("no vLLM here; run `python tests/install.py vllm`, or `make test-slow`")
    async with AsyncExitStack() as stack:

        def engine(name: str, **more: object) -> VllmEngine:
            spec = VllmSpec(
                str(model_dir(name)),
                (str(VENV / "bin/python"), "-m", "vllm.entrypoints.openai.api_server"),
                FLAGS,
                ENVIRONMENT,
                **more,  # type: ignore[arg-type]
            )
            expert = Expert(
                name, spec, context_tokens=256, max_tokens=64, footprint=Footprint(gib=1.0)
            )
            made = VllmEngine(expert, tmp_path / "state", PATIENCE_S)
            stack.push_async_callback(made.stop, 30.0)
            return made

        yield engine


@asynccontextmanager
async def _timed(what: str) -> AsyncIterator[None]:
    started = time.perf_counter()
    yield
    sys.stderr.write(f"{what}: {time.perf_counter() - started:.1f} s\n")


def _questions(field: str) -> Sequence[ZooQuestion]:
    return [question for question in zoo_questions("test") if question.field == field][:N_EACH]


def _session(leader: int) -> set[int]:
    """Every process of a session, found another way than by the token."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {pid for pid in pids if _session_of(pid) == leader}


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _request(text: str) -> GenerationRequest:
    return GenerationRequest((Message("user", text),))


async def test_a_real_server_starts_answers_crashes_and_stops(make: Make) -> None:
    engine = make("arithmetic")
    async with _timed("cold start"):
        await engine.ensure_ready(PATIENCE_S)
    question = _questions("arithmetic")[0]
    completion = await collect("arithmetic", engine.stream(_request(question.text)))
    assert is_correct(question.answer, completion.text)
    assert completion.usage is not None
    async with engine.running() as server:
        token, pid = server.token, server.pid
    # The workers, which hold the memory, rename themselves and must be known all the same.
    assert family(token) == _session(pid)
    assert len(family(token)) >= 3
    died = asyncio.Event()
    engine.on_death(died.set)
    async with _timed("death noticed and its workers gone"):
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            await died.wait()
    assert family(token) == set()
    async with _timed("start after the crash"):
        await engine.ensure_ready(PATIENCE_S)
        completion = await collect("arithmetic", engine.stream(_request(question.text)))
    assert is_correct(question.answer, completion.text)
    died.clear()
    async with _timed("stop"):
        await engine.stop(30)
    assert engine.state is EngineState.STOPPED
    assert not died.is_set()


async def test_a_vllm_that_cannot_sleep_says_what_to_change(make: Make) -> None:
    async with _timed("refusal of sleep mode"):
        with pytest.raises(StartupError, match=r"'text'.*sleep_level to 0"):
            await make("text", sleep_level=1).ensure_ready(PATIENCE_S)


async def test_two_real_experts_swap_under_load_and_nothing_is_lost(make: Make) -> None:
    names = ("arithmetic", "geography")
    inner = {name: make(name) for name in names}
    site = Site(
        {"cpu": 1.0},
        tuple(
            Tenant(name, gib=1.0, costs=SwapCosts(load_s=40.0, evict_s=3.0), service_s=0.1)
            for name in names
        ),
    )
    dispatcher = Dispatcher(inner, lambda effects: SwapScheduler(site, effects), PATIENCE_S)
    engines = {name: HostedEngine(engine, dispatcher) for name, engine in inner.items()}
    most_at_once = 0

    async def ask(question: ZooQuestion) -> bool:
        nonlocal most_at_once
        completion = await collect(
            question.field, engines[question.field].stream(_request(question.text))
        )
        n_ready = sum(engine.state is EngineState.READY for engine in inner.values())
        most_at_once = max(most_at_once, n_ready)
        return is_correct(question.answer, completion.text)

    mixed = [q for pair in zip(*(_questions(name) for name in names), strict=True) for q in pair]
    try:
        async with _timed(f"{len(mixed)} requests over two experts, one resident at a time"):
            first = await asyncio.gather(*(ask(question) for question in mixed))
        async with _timed(f"{N_EACH} more for the expert that had left"):
            loaded = next(n for n in names if inner[n].state is EngineState.READY)
            other = next(n for n in names if n != loaded)
            second = await asyncio.gather(*(ask(question) for question in _questions(other)))
    finally:
        async with _timed("shut down"):
            await dispatcher.shut_down(30)
    scheduler = dispatcher.scheduler
    assert isinstance(scheduler, SwapScheduler)
    counts = scheduler.counts
    sys.stderr.write(f"{counts}\n")
    assert len(first) == 2 * N_EACH
    assert sum(first) + sum(second) >= 0.9 * 3 * N_EACH
    assert counts.granted == counts.finished == 3 * N_EACH
    assert (counts.loads, counts.failures, counts.refused) == (3, 0, 0)
    assert most_at_once == 1


async def test_when_coe_is_killed_no_real_server_stays_behind(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from coe.engines.vllm import VllmEngine
        from coe.experts import Expert, VllmSpec
        async def main():
            spec = VllmSpec(
                {str(model_dir("vocabulary"))!r},
                ({str(VENV / "bin/python")!r}, "-m", "vllm.entrypoints.openai.api_server"),
                {FLAGS!r},
                {ENVIRONMENT!r},
            )
            engine = VllmEngine(Expert("vocabulary", spec), Path({str(tmp_path)!r}), 300.0)
            await engine.ensure_ready(300.0)
            async with engine.running() as server:
                print(server.token, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    token = output.decode().strip()
    sys.stderr.write(f"{len(family(token))} processes outlive us for now\n")
    async with _timed("the next start finds nothing of them left"):
        await Claim("vocabulary", tmp_path).take()
    assert family(token) == set()
