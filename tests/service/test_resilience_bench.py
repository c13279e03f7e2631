"""The benchmark of resilience: what its clients see, and its scenes in short."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

Module = Callable[[str], Any]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Module:
    """A module of `bench.resilience`, which is not installed."""
    monkeypatch.syspath_prepend(str(repository))
    return lambda name: import_module(f"bench.resilience.{name}")


@pytest.mark.parametrize(
    ("way", "is_streamed", "problem"),
    [
        ("none", False, None),
        ("none", True, None),
        ("500", False, "status 500"),
        ("reset", False, "ConnectionResetError"),
        ("reset-mid-body", False, "ConnectionResetError"),
        ("cut-stream", True, "ConnectionResetError"),
        ("wrong-json", False, "JSONDecodeError"),
    ],
)
async def test_resilience_client_sees_what_an_upstream_does(
    bench: Module, way: str, is_streamed: bool, problem: str | None
) -> None:
    load, upstream, wire = (bench(name) for name in ("load", "upstream", "wire"))
    state = upstream.State()
    state.way = way
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: upstream.Connection(state), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    to = wire.Wire(f"http://{host}:{port}")
    try:
        outcome = await load.ask(to, load.Ask(is_streamed=is_streamed), 1)
    finally:
        to.close()
        server.close()
    assert outcome.problem == problem
    assert outcome.is_good is (problem is None)
    assert outcome.is_cut is (way == "cut-stream")
    assert outcome.n_pieces == {"none": 10, "cut-stream": 6}.get(way, 0) * is_streamed
    assert state.counts["asked"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "scene",
    [
        *("kill", "500", "slow-loris", "drain", "reload", "vanish"),
        *("overload", "overload-gateway", "soak"),
    ],
)
def test_scene_ends_well(repository: Path, scene: str) -> None:
    command = [sys.executable, "-m", "bench.resilience", "--quick", "--only", scene]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    if scene == "drain":
        assert row["lost"] == row["late_answered"] == row["late_without_retry_after"] == 0
    elif scene == "reload":
        assert row["failed"] == 0
        assert row["reloaded"] > row["kept_as_it_was"] > 0
    elif scene == "vanish":
        assert row["cancelled_upstream"] == row["clients"]
        assert row["answers_still"]
        assert row["sockets_after"] <= row["sockets_before"]
    elif scene == "soak":
        assert row["failed"] == 0, row["problems"]
    elif scene.startswith("overload"):
        assert row["neither"] == row["refused_without_retry_after"] == 0
        reason = "congestion" if scene == "overload-gateway" else "lines"
        assert row["refused_for"][reason] > 0.8 * row["refused"] > 0
        # Whatever else the machine does: most of what the gateway has goes into answers.
        assert row["goodput_share_of_cpu"] > 0.5
    else:
        assert row["whole_failed"] == row["cut_without_error_event"] == 0
        assert row["cut_with_end_mark"] == 0
