"""What the GPU benchmarks share: options, engines, requests, percentiles, the result file."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.engines.base import Engine, collect
from coe.engines.vllm import VllmEngine
from coe.experts import Expert, FlagValue, Footprint, VllmSpec
from coe.types import Completion, GenerationRequest, Message, SamplingParams

FAKE = (sys.executable, "-m", "coe.engines.fake_vllm")
FAKE_FLAGS: dict[str, FlagValue] = {
    "fake-load-s": 0.2, "fake-wake-s": 0.02, "fake-sleep-s": 0.01, "fake-reload-s": 0.05,
    "fake-step-s": 0.001, "fake-weights-gib": 4.0, "fake-kv-gib": 2.0,
}  # fmt: skip
FAKE_GIB = 6.1
PATIENCE_S = 900.0
PROMPT = "Explain in your own words, step by step, why question number {} has the answer it has."


@dataclass(frozen=True, slots=True)
class Bench:
    """One run: what it starts experts with, and where they keep their state."""

    options: argparse.Namespace
    folder: Path

    @property
    def is_dry(self) -> bool:
        return bool(self.options.dry_run)

    @property
    def models(self) -> list[str]:
        return list(self.options.model) if self.options.model else ["fake"]

    def engine(self, expert_id: str, model: str, **more: Any) -> VllmEngine:
        """An engine that sleeps at level 1 unless `more` says otherwise."""
        flags: dict[str, FlagValue] = dict(map(_flag, self.options.flag))
        flags |= more.pop("flags", {})
        settings: dict[str, Any] = {"sleep_level": 1, "drain_s": 1.0, **more}
        if self.is_dry:
            known = {name: flags[name] for name in flags if name.startswith("fake-")}
            devices: dict[str, FlagValue] = {"fake-devices": str(self.folder / "devices")}
            spec = VllmSpec(model, FAKE, {**FAKE_FLAGS, **devices, **known}, **settings)
        else:
            command = (self.options.python, "-m", "vllm.entrypoints.openai.api_server")
            spec = VllmSpec(model, command, flags, **settings)
        gib = FAKE_GIB if self.is_dry else self.options.gib
        expert = Expert(expert_id, spec, max_tokens=64, footprint=Footprint(gib=gib))
        return VllmEngine(expert, self.folder / "state", PATIENCE_S)


def _flag(pair: str) -> tuple[str, FlagValue]:
    name, _, value = pair.partition("=")
    return name, {"": True, "true": True, "false": False}.get(value, value)


def options(name: str, doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options that all have; `defaults` sets some of them."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.gpu.{name}", description=doc)
    parser.add_argument("--python", help="the Python of an environment that has vLLM")
    parser.add_argument("--model", action="append", help="directory or hub name; may be repeated")
    parser.add_argument("--flag", action="append", default=[], help="a flag of vLLM: name=value")
    parser.add_argument("--gib", type=float, default=70.0, help="device memory of one expert")
    parser.add_argument("--dry-run", action="store_true", help="small, against the fake vLLM")
    parser.add_argument("--output", type=Path, default=Path(f"bench/results/gpu_{name}.json"))
    parser.set_defaults(**defaults)
    return parser


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Bench], Awaitable[dict[str, Any]]],
    arguments: Sequence[str] | None,
) -> None:
    """Measures and writes the result, labelled with what it was measured on."""
    chosen = parser.parse_args(arguments)
    if not chosen.dry_run and not (chosen.python and chosen.model):
        parser.error("name --python and --model, or try --dry-run")
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(_timed(measure, Bench(chosen, Path(folder))))
    report = {"benchmark": name, "is_dry_run": chosen.dry_run, **_machine(chosen), **result}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


async def _timed(
    measure: Callable[[Bench], Awaitable[dict[str, Any]]], bench: Bench
) -> dict[str, Any]:
    started = time.perf_counter()
    result = await measure(bench)
    return {**result, "wall_s": time.perf_counter() - started}


def _machine(chosen: argparse.Namespace) -> dict[str, Any]:
    gpu = None
    if not chosen.dry_run and shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        gpu = (
            subprocess.run(
                ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
            ).stdout.strip()
            or None
        )
    return {"gpu": gpu, "models": chosen.model, "flags": chosen.flag}


@asynccontextmanager
async def stopping(*engines: VllmEngine) -> AsyncIterator[None]:
    """Stops them all at the end, whatever happens."""
    try:
        yield
    finally:
        await asyncio.gather(*(engine.stop(30.0) for engine in engines), return_exceptions=True)


async def ask(engine: Engine, text: str, max_tokens: int = 64) -> Completion:
    request = GenerationRequest((Message("user", text),), SamplingParams(max_tokens=max_tokens))
    return await collect(engine.expert_id, engine.stream(request))


async def seconds(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Of at least one value."""
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p90": ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        "max": ordered[-1],
        "n": len(ordered),
    }


def tokens(completions: Sequence[Completion]) -> int:
    return sum(one.usage.completion_tokens for one in completions if one.usage is not None)


def weight_bytes(model: str) -> int | None:
    """Of a model directory's safetensors; None for what is no directory."""
    files = list(Path(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) or None
