"""A child process that behaves like `vllm serve`, for pools without GPUs.

    python -m coe.engines.fake_vllm --model anything --port 8101 --enable-sleep-mode

It takes vLLM's options and ignores those that mean nothing to it. Its own begin with `--fake-`:
what things cost in seconds and GiB, a folder in which fakes on one device share its memory, how
it answers, and what goes wrong. As with the real one, the routes that put it to sleep need
VLLM_SERVER_DEV_MODE=1 and `--enable-sleep-mode`, those for adapters need
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and CUDA_VISIBLE_DEVICES says on which device it is.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import web

from coe.engines.fake_device import Device, FileDevice, MemoryDevice, OutOfDeviceMemory
from coe.engines.fake_faults import Faults
from coe.engines.fake_vllm_core import FakeCosts, FakeSize, FakeVllm
from coe.engines.fake_vllm_routes import FakeRoutes
from coe.engines.scripted import ScriptedEngine
from coe.errors import CoeError
from coe.experts import Expert, ScriptedSpec
from coe.types import GenerationRequest


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m coe.engines.fake_vllm", description=__doc__)
    options.add_argument("--model", required=True)
    options.add_argument("--served-model-name")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--uds", type=Path)
    options.add_argument("--enable-sleep-mode", action="store_true")
    options.add_argument("--enable-return-routed-experts", action="store_true")
    options.add_argument("--max-model-len", type=int, default=4096, help="words")
    fake = options.add_argument_group("the fake's own")
    for cost in dataclasses.fields(FakeCosts):
        _add_number(fake, cost.name, float(str(cost.default)))
    for size in dataclasses.fields(FakeSize):
        _add_number(fake, size.name, float(str(size.default)))
    fake.add_argument("--fake-devices", type=Path, help="folder of the devices' ledgers")
    fake.add_argument("--fake-capacity-gib", type=float, default=80.0, help="of each device")
    fake.add_argument("--fake-faults", default="", help="name, name:3 or name:always, by commas")
    fake.add_argument("--fake-answer", help="what it answers; {} is the last message")
    fake.add_argument("--fake-answers", type=Path, help="JSON file: pattern to answer")
    return options


def _add_number(group: argparse._ArgumentGroup, name: str, default: float) -> None:
    group.add_argument(f"--fake-{name.replace('_', '-')}", type=float, default=default)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM. Raises `SystemExit` where it cannot start."""
    # vLLM has some hundred options more; none of them changes what a fake does.
    options, _ = parser().parse_known_args(arguments)
    try:
        core = _core(options)
    except (CoeError, OSError, ValueError) as error:
        sys.exit(f"ValueError: {error}")
    asyncio.run(_serve(options, core))


async def _serve(options: argparse.Namespace, core: FakeVllm) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    listener = _bound(options)
    _say(f"INFO loading {options.model}")
    try:
        loading = asyncio.create_task(core.load())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return
        await loading
    except OutOfDeviceMemory as error:
        sys.exit(f"torch.OutOfMemoryError: {error}")
    routes = FakeRoutes(
        core,
        can_sleep=options.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1",
        has_adapters=os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1",
        tells_experts=options.enable_return_routed_experts,
    )
    runner = web.AppRunner(routes.app(), handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    _say("INFO Application startup complete.")
    await stop.wait()
    await runner.cleanup()


def _bound(options: argparse.Namespace) -> socket.socket:
    """Taken before the load, as by the real one; nobody is answered before it."""
    if options.uds is not None:
        listener = socket.socket(socket.AF_UNIX)
        address: str | tuple[str, int] = str(options.uds)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (options.host, options.port)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        sys.exit(f"OSError: [Errno {error.errno}] {error.strerror}: {address}")
    return listener


def _core(options: argparse.Namespace) -> FakeVllm:
    values = vars(options)
    costs = {field.name: values[f"fake_{field.name}"] for field in dataclasses.fields(FakeCosts)}
    size = {field.name: values[f"fake_{field.name}"] for field in dataclasses.fields(FakeSize)}
    name = options.served_model_name or options.model
    faults = Faults.parse([word for word in options.fake_faults.split(",") if word])
    expert = Expert(name, ScriptedSpec(), context_tokens=options.max_model_len)
    core = FakeVllm(expert, _answer(name, options), _device(options))
    core.size, core.costs, core.faults = FakeSize(**size), FakeCosts(**costs), faults
    core.owner = str(os.getpid())
    core.on_death = _die
    return core


def _answer(name: str, options: argparse.Namespace) -> Callable[[GenerationRequest], str]:
    default = options.fake_answer if options.fake_answer is not None else f"{name} has read: {{}}"
    table = json.loads(options.fake_answers.read_text()) if options.fake_answers else {}
    scripted = ScriptedEngine(Expert(name, ScriptedSpec(answers=table)))

    def answer(request: GenerationRequest) -> str:
        return scripted.answer(request) or default.replace("{}", request.messages[-1].content)

    return answer


def _device(options: argparse.Namespace) -> Device:
    if options.fake_devices is None:
        return MemoryDevice(options.fake_capacity_gib)
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "0"
    return FileDevice(options.fake_devices / f"{first}.json", options.fake_capacity_gib)


def _die() -> None:
    _say("Traceback (most recent call last):\nRuntimeError: CUDA error: an illegal memory access")
    os._exit(1)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
