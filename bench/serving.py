"""Measures the gateway on this machine: import, start, memory, routing, requests per second.

    python -m bench.serving [--out bench/results/serving.json]

Every figure is taken here and now. Machines differ and are noisy: compare ratios taken in one
run, not figures of two runs. The floor beside each import is an empty interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.serve_load import run_load

ROOT = Path(__file__).resolve().parent.parent
COE = [sys.executable, "-m", "coe.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/serving.json")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": _machine(), "command": "python -m bench.serving"}
    results["import"] = measure_imports()
    results["route"] = measure_routing()
    results["zoo"] = measure_zoo_server(arguments.seconds)
    results["gateway"] = measure_scripted_server(arguments.seconds)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def measure_imports(repeats: int = 9) -> dict[str, float]:
    """Median seconds of a fresh interpreter that imports each door, and of one that does not."""
    return {
        name: round(statistics.median(_import_s(name) for _ in range(repeats)), 4)
        for name in ("sys", "coe", "coe.assembly", "coe.service.app")
    }


def _import_s(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - started


def measure_routing(repeats: int = 3) -> dict[str, float]:
    """Milliseconds per `Router.route`, over the zoo's test questions and a 512-word prompt."""
    from coe import Router
    from coe.zoo.questions import zoo_questions

    router = Router.load(ROOT / "experts.yaml")
    texts = [question.text for question in zoo_questions("test")]
    router.route(texts[0])
    short = _times_ms(router.route, texts * repeats)
    words = " ".join(texts).split()
    long = [" ".join(words[i : i + 512]) for i in range(0, 400)]
    return {
        **_quantiles("question", short),
        **_quantiles("512_words", _times_ms(router.route, long)),
    }


def _times_ms(route: Callable[[str], object], texts: list[str]) -> list[float]:
    times = []
    for text in texts:
        started = time.perf_counter()
        route(text)
        times.append((time.perf_counter() - started) * 1000)
    return times


def _quantiles(name: str, times_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times_ms, n=100)
    return {f"{name}_p50_ms": round(cuts[49], 3), f"{name}_p99_ms": round(cuts[98], 3)}


def measure_zoo_server(seconds: float) -> dict[str, Any]:
    """The default pool: start, memory without and with experts, real answers per second."""
    with _server(ROOT / "experts.yaml") as (url, process, started):
        ready_s = time.perf_counter() - started
        before = _rss_mib(process)
        asked = time.perf_counter()
        _post(url, "What is the capital of Peru?")
        first_answer_s = time.perf_counter() - asked
        after = _rss_mib(process)
        load = asyncio.run(run_load(url, "coe", concurrency=16, seconds=seconds))
        return {
            "start_to_first_200_s": round(ready_s, 3),
            "first_answer_s": round(first_answer_s, 3),
            "rss_ready_mib": before,
            "rss_after_first_answer_mib": after,
            "rss_after_load_mib": _rss_mib(process),
            "load_16_in_flight": load,
        }


def measure_scripted_server(seconds: float) -> dict[str, Any]:
    """The gateway itself: instant experts, routed by the same router."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "experts.yaml"
        file.write_text(_scripted_pool(), encoding="utf-8")
        with _server(file) as (url, process, started):
            ready_s = time.perf_counter() - started
            cpu_before = _cpu_s(process)
            load = asyncio.run(run_load(url, "coe", concurrency=64, seconds=seconds))
            cpu_s = _cpu_s(process) - cpu_before
            return {
                "start_to_first_200_s": round(ready_s, 3),
                "rss_mib": _rss_mib(process),
                "cpu_ms_per_request": round(1000 * cpu_s / max(1, load["requests"]), 3),
                "load_64_in_flight": load,
            }


def _scripted_pool() -> str:
    ids = ("arithmetic", "geography", "chemistry", "vocabulary", "text", "generalist")
    experts = [{"id": id_, "engine": {"kind": "scripted", "default": "four"}} for id_ in ids]
    router = {"scorer": "knn", "artifact": str(ROOT / "coe/zoo/router")}
    return json.dumps({"experts": experts, "router": router})


@contextmanager
def _server(config: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """`coe serve` on a free port, ready; yields its URL, process and when it was started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    child = subprocess.Popen(
        [*COE, "serve", "-c", str(config), "--port", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        while not _is_ready(url):
            if child.poll() is not None:
                raise SystemExit(f"coe serve -c {config} ended with {child.returncode}")
            time.sleep(0.01)
        yield url, psutil.Process(child.pid), started
    finally:
        child.terminate()
        child.wait(timeout=20)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _post(url: str, text: str) -> None:
    body = json.dumps({"model": "coe", "messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        response.read()


def _rss_mib(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
