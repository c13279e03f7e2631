"""Gateways side by side, in front of one mock expert: latency, CPU, throughput, streams, memory.

    python -m bench.gateway [--rounds 5] [--only floor,coe,litellm] [--quick]

Needs Linux on two cores with nothing else to do: the gateway has one of them, what asks and
what answers the other. Peers are installed from the package index into a folder that is
removed at the end, or that `--peers` names and keeps. Compare ratios of one run, not figures of
two. `--quick` proves that everything runs, on any machine: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from bench.gateway import ours, report
from bench.gateway.peers import PEERS, CannotInstall
from bench.gateway.processes import OTHER_CORE, can_pin, free_port, serving
from bench.gateway.rounds import Measured, TooBusy, measured
from bench.gateway.scenes import Settings
from bench.gateway.systems import System, coe, floor, peer
from bench.serving import ROOT

_OWN = ("floor", "coe", "coe-routed")
_NAMES = (*_OWN, *PEERS)
_PACKAGES = ("coe-router", "uvicorn", "uvloop", "httptools", "aiohttp", "orjson", "starlette")
_MOCK_S = 10.0


def main(arguments: Sequence[str] | None = None) -> None:
    given = _given(arguments)
    if can_pin():
        os.sched_setaffinity(0, {OTHER_CORE})
    try:
        result = uvloop.run(_run(given))
    except asyncio.CancelledError:
        sys.exit("no result: ended by a signal")
    except TooBusy as error:
        sys.exit(f"no result: {error}")
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report.table(result))


async def _run(given: argparse.Namespace) -> dict[str, Any]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    settings = _settings(given)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateways-")))
        port = free_port()
        expert_url = f"http://127.0.0.1:{port}"
        mock = [sys.executable, "-m", "bench.gateway.mock", "--port", str(port)]
        path = {"PYTHONPATH": str(ROOT)}
        server = stack.enter_context(serving(mock, folder / "mock", OTHER_CORE, path))
        async with asyncio.timeout(_MOCK_S):
            while not _answers(expert_url):
                server.check()
                await asyncio.sleep(0.02)
        config = ours.prepared(folder / "coe", expert_url)
        systems, pins, skipped = _systems(given, folder, config, expert_url)
        found = await measured(systems, settings, expert_url, folder, not given.quick)
        routing = ours.routing_figures(config)
    return _result(given, settings, found, {"peers": pins, "routing": routing}, skipped)


def _systems(
    given: argparse.Namespace, folder: Path, config: Path, expert_url: str
) -> tuple[list[System], dict[str, Any], dict[str, str]]:
    """Those asked for; of peers what was installed, or why nothing was."""
    own = {
        "floor": floor(expert_url),
        "coe": coe(config, routes=False),
        "coe-routed": coe(config, routes=True),
    }
    systems: list[System] = []
    pins: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in given.only:
        if name in own:
            systems.append(own[name])
            continue
        try:
            place = (given.peers or folder / "peers").resolve()
            system, installed = peer(name, place / name, expert_url)
        except CannotInstall as error:
            skipped[name] = f"it cannot be installed: {error}"
        else:
            systems.append(system)
            pins[name] = installed.pin
    return systems, pins, skipped


def _result(
    given: argparse.Namespace,
    settings: Settings,
    found: Measured,
    more: dict[str, Any],
    skipped: dict[str, str],
) -> dict[str, Any]:
    goals = [
        goal.judged(found.rounds) for goal in report.goals(settings.rates, settings.concurrency)
    ]
    return {
        "benchmark": "gateway",
        "command": "python -m bench.gateway " + shlex.join(given.words),
        "is_quick": given.quick,
        "machine": _machine(),
        "versions": {name: version(name) for name in _PACKAGES},
        "settings": asdict(settings),
        **more,
        "skipped": {**skipped, **found.failed},
        "rounds_discarded": found.n_discarded,
        "direct_p99_at_200_ms": found.probes_ms,
        "goals": goals + report.routing_goals(more["routing"]),
        "medians": report.medians(found.rounds),
        "rounds": found.rounds,
    }


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "pinned": can_pin(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _answers(expert_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{expert_url}/counts", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _settings(given: argparse.Namespace) -> Settings:
    settings = Settings.quick() if given.quick else Settings()
    asked = {"rounds": given.rounds, "seconds": given.seconds}
    return replace(settings, **{name: value for name, value in asked.items() if value is not None})


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help=f"some of {','.join(_NAMES)}; default: all")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="of each open loop; default: 10")
    parser.add_argument("--quick", action="store_true", help="one short round, own gateways only")
    parser.add_argument("--peers", type=Path, help="folder that keeps the peers' environments")
    parser.add_argument("--out", type=Path, help="default: bench/results/gateway.json, or none")
    given = parser.parse_args(arguments)
    given.words = list(sys.argv[1:] if arguments is None else arguments)
    given.only = (given.only or ",".join(_OWN if given.quick else _NAMES)).split(",")
    if unknown := set(given.only) - set(_NAMES):
        parser.error(f"no such gateway: {', '.join(sorted(unknown))}")
    if (given.rounds or 1) < 1 or (given.seconds or 1) <= 0:
        parser.error("--rounds and --seconds must be above zero")
    if given.out is None and not given.quick:
        given.out = ROOT / "bench/results/gateway.json"
    return given


if __name__ == "__main__":
    main()
