"""Hosted experts that come to harm while they are in use, seen from the gateway's front door."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.applications import Starlette

from coe.assembly import load_composition
from coe.engines.claim import file_stem
from coe.engines.family import family
from coe.service.app import create_app

LEFT_BEHIND = "(trap '' TERM; exec setsid sleep 100) & exec"
"""Begins a server with a worker that does not end with it."""
PATIENCE_S = 20.0
SECRET = re.compile(r"experts\.yaml|\.coe|fake_vllm|SIGKILL|CUDA|process")

Serve = Callable[[Starlette], AbstractContextManager[Any]]
Open = Callable[..., AbstractContextManager["Gateway"]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@dataclass
class Gateway:
    """A pool of three: `a` and `b` share a device with room for one, `well` is alone on another."""

    http: httpx.Client
    folder: Path

    def ask(self, model: str, text: str = "hi") -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=_body(model, text))

    def answers(self, models: str) -> list[int]:
        return [self.ask(model).status_code for model in models.split()]

    def ask_until_served(self, model: str) -> httpx.Response:
        until = time.monotonic() + PATIENCE_S
        while (answer := self.ask(model)).status_code != 200 and time.monotonic() < until:
            time.sleep(0.05)
        return answer

    def pids(self, expert_id: str) -> set[int]:
        return family(_token(self.folder, expert_id))

    def occupy(self, gib: float) -> None:
        """Some other process takes so much of the device that `a` and `b` share."""
        ledger = self.folder / "devices/0.json"
        held = {**json.loads(ledger.read_text()), str(os.getpid()): gib}
        ledger.write_text(json.dumps(held))


def _body(model: str, text: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def _token(folder: Path, expert_id: str) -> str:
    record = json.loads((folder / f".coe/{file_stem(expert_id)}.json").read_text())
    return str(record["token"])


def _file(folder: Path, faults: str = "", begins: str = "exec") -> Path:
    script = f'{begins} {sys.executable} -m coe.engines.fake_vllm "$@"'
    flags = {
        "fake-load-s": 0.0,
        "fake-step-s": 0.001,
        "fake-capacity-gib": 2.4,
        "fake-devices": str(folder / "devices"),
    }
    experts: list[dict[str, object]] = []
    for name, device in (("a", "gpu0"), ("b", "gpu0"), ("well", "gpu1")):
        engine = {
            "kind": "vllm",
            "model": "m",
            "command": ["/bin/sh", "-c", script, "serve.sh"],
            "sleep_level": 1,
            "drain_s": 0.1,
            "flags": {**flags, "fake-faults": faults} if name == "a" else flags,
        }
        footprint = {"gib": 2.1, "asleep_gib": 1.0, "residue_gib": 0.1}
        hosting = {"devices": [device]}
        experts.append({"id": name, "footprint": footprint, "hosting": hosting, "engine": engine})
    whole = {
        "experts": experts,
        "router": {"scorer": "random"},
        "devices": {"gpu0": 2.4, "gpu1": 2.4},
        "host_memory_gib": 4.0,
        "startup_timeout_s": PATIENCE_S,
    }
    file = folder / "experts.yaml"
    file.write_text(json.dumps(whole))
    return file


@pytest.fixture
def gateway(serve: Serve, tmp_path: Path) -> Open:
    @contextmanager
    def opened(faults: str = "") -> Iterator[Gateway]:
        app = create_app(load_composition(_file(tmp_path, faults)))
        with serve(app) as live, _client(live.url) as http:
            yield Gateway(http, tmp_path)

    return opened


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=30)


@linux
def test_a_crash_in_mid_answer_is_told_and_the_expert_comes_back(gateway: Open) -> None:
    with gateway() as pool:
        body = {**_body("a", "word " * 2000), "stream": True}
        with pool.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            for pid in pool.pids("a"):
                os.kill(pid, signal.SIGKILL)
            rest: list[str] = []
            with pytest.raises(httpx.RemoteProtocolError):  # It is cut off, so that it is no end.
                rest.extend(lines)
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert "expert 'a' failed" in error["message"]
        assert not SECRET.search(error["message"])
        assert pool.answers("well") == [200]
        assert pool.ask_until_served("a").status_code == 200


def test_a_device_that_another_process_fills_is_told_until_it_is_free(
    gateway: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway() as pool:
        assert pool.answers("a b") == [200, 200]
        pool.occupy(1.0)
        answer = pool.ask("a")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "expert_unavailable"
        assert not SECRET.search(answer.text)
        told = [record.getMessage() for record in caplog.records]
        assert any("'a'" in line and "end what else uses that device" in line for line in told)
        assert any("'a' starts anew" in line for line in told), "its wake failed first"
        assert pool.answers("well well") == [200, 200]
        pool.occupy(0.0)
        assert pool.ask_until_served("a").status_code == 200
        assert pool.ask_until_served("b").status_code == 200


@pytest.mark.parametrize(
    ("fault", "told"),
    [("held", "still holds"), ("sleep-lies", "says that it sleeps and does not")],
)
def test_a_sleep_that_frees_too_little_harms_nobody(
    gateway: Open, caplog: pytest.LogCaptureFixture, fault: str, told: str
) -> None:
    with gateway(f"{fault}:always") as pool:
        assert pool.answers("a b a b well") == [200] * 5
    assert any("'a'" in r.getMessage() and told in r.getMessage() for r in caplog.records)


@linux
@pytest.mark.slow
def test_a_gateway_that_was_killed_leaves_nothing_that_the_next_one_does_not_end(
    tmp_path: Path,
) -> None:
    file = _file(tmp_path, begins=LEFT_BEHIND)
    with _serving(file) as (process, pool):
        assert pool.answers("a well") == [200, 200]
        tokens = [_token(tmp_path, expert_id) for expert_id in ("a", "well")]
        assert all(len(family(token)) >= 2 for token in tokens)
        process.kill()
        process.wait()
    until = time.monotonic() + PATIENCE_S
    while any(len(family(token)) > 1 for token in tokens) and time.monotonic() < until:
        time.sleep(0.02)
    assert [len(family(token)) for token in tokens] == [1, 1], "servers end, workers do not"
    with _serving(file) as (_, pool):
        assert pool.answers("well") == [200]
        assert not any(family(token) for token in tokens), "also those of an expert not asked for"
        assert pool.answers("a") == [200]


@contextmanager
def _serving(file: Path) -> Iterator[tuple[subprocess.Popen[str], Gateway]]:
    """`coe serve` in a process of its own."""
    command = [sys.executable, "-m", "coe.cli", "serve", "--config", str(file), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        ready = (re.search(r"ready at (\S+)/v1", line) for line in said)
        url = next((found[1] for found in ready if found), "")
        assert url, "it did not come up"
        with _client(url) as http:
            yield process, Gateway(http, file.parent)
    finally:
        process.terminate()
        process.communicate(timeout=30)
