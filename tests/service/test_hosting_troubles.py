"""Experts hosted as vLLM servers that get into trouble, seen from the gateway's front door.

One gateway serves a pool in which most experts are in some trouble of their own and one is not.
They are all asked at once, the troubles are taken away, and they are asked again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.applications import Starlette

from coe.assembly import load_composition
from coe.engines.family import family
from coe.service.app import create_app

SERVER = """
trouble=$1
shift
[ -f "$trouble" ] && . "$trouble"
exec {python} -m coe.engines.fake_vllm "$@"
"""
"""Stands for `vllm serve`: what is written in the file TROUBLE happens before it starts."""
SECRET = re.compile(r"/srv|\.sh|\.coe|fake_vllm|OutOfMemory|architectures|safetensors")
"""What concerns the operator alone."""
PATIENCE_S = 4.0
GIB = 2.1
ROOM_GIB = 4.0
QUICK = {"fake-load-s": 0.0, "fake-step-s": 0.001, "fake-capacity-gib": ROOM_GIB}


@dataclass
class Trouble:
    """One way in which an expert fails, and how it is told."""

    told: str
    """In the operator's log, beside the expert's id."""
    script: str = ""
    """What the server does before it would serve."""


TROUBLES = {
    "absent": Trouble("there is no program .*install it.* in the expert's command"),
    "listening": Trouble("port .* cannot be had .* leave the port out"),
    "unreadable": Trouble(
        "its model cannot be read; correct the expert's model",
        "echo \"Repo id must be in the form 'repo_name': '/srv/secret'\"; exit 1",
    ),
    "unknown": Trouble(
        "does not know the model's architecture; .* newer vLLM",
        "echo \"Model architectures ['X'] are not supported for now.\"; exit 1",
    ),
    "damaged": Trouble(
        "files are damaged, or not all there; copy or download the model's directory anew",
        "echo 'safetensors_rust.SafetensorError: Error while deserializing header'; exit 1",
    ),
    "crowded": Trouble("device has too little free memory; .* end what else uses that device"),
    "hanging": Trouble("not ready within .*raise startup_timeout_s", "sleep 60"),
}


@dataclass
class Answer:
    """What a client was told, and how long that took."""

    status: int
    text: str
    seconds: float

    @property
    def whole(self) -> dict[str, Any]:
        whole: dict[str, Any] = json.loads(self.text)
        return whole


@dataclass
class Story:
    """What happened to the pool, told once and looked at by the tests."""

    broken: dict[str, Answer] = field(default_factory=dict)
    """Of each expert in trouble."""
    again: dict[str, Answer] = field(default_factory=dict)
    """Asked once more at once."""
    routed: list[Answer] = field(default_factory=list)
    """Asked of the router meanwhile."""
    meanwhile: list[Answer] = field(default_factory=list)
    """Of the expert that is well, asked all the time."""
    healed: dict[str, Answer] = field(default_factory=dict)
    """Once the troubles are over."""
    log: list[str] = field(default_factory=list)
    """What an operator reads."""
    failed: set[str] = field(default_factory=set)
    """Of whom `/readyz` says so while they are in trouble."""
    tokens: set[str] = field(default_factory=set)
    """Of the servers that ran in the end."""


class Pool:
    """Its file, and the troubles beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        (folder / "serve.sh").write_text(SERVER.format(python=sys.executable))
        (folder / "devices").mkdir()
        self.port = self._listen()
        for name, trouble in TROUBLES.items():
            if trouble.script:
                (folder / name).write_text(trouble.script)
        crowded = list(TROUBLES).index("crowded")
        self._ledger = folder / "devices" / f"{crowded}.json"
        self._ledger.write_text(json.dumps({str(os.getpid()): 3.0}))
        (folder / "experts.yaml").write_text(json.dumps(self._file()))

    def heal(self) -> None:
        for name in TROUBLES:
            (self.folder / name).unlink(missing_ok=True)
        self._stack.close()
        self._ledger.write_text("{}")
        program = self.folder / "absent-vllm"
        program.write_text(f'#!/bin/sh\nexec /bin/sh {self.folder}/serve.sh none "$@"\n')
        program.chmod(0o755)

    def close(self) -> None:
        self._stack.close()

    def _listen(self) -> int:
        listener = self._stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return int(listener.getsockname()[1])

    def _file(self) -> dict[str, object]:
        names = [*TROUBLES, "well"]
        return {
            "experts": [self._expert(name, f"gpu{i}") for i, name in enumerate(names)],
            "router": {"scorer": "random", "failovers": len(TROUBLES)},
            "devices": {f"gpu{i}": ROOM_GIB for i in range(len(names))},
            "startup_timeout_s": PATIENCE_S,
        }

    def _expert(self, name: str, device: str) -> dict[str, object]:
        script = ["/bin/sh", f"{self.folder}/serve.sh", f"{self.folder}/{name}"]
        engine = {
            "kind": "vllm",
            "model": "m",
            "command": [f"{self.folder}/absent-vllm"] if name == "absent" else script,
            "port": self.port if name == "listening" else 0,
            "canary_tokens": 0,
            "flags": {**QUICK, "fake-devices": f"{self.folder}/devices"},
        }
        hosting = {"devices": [device]}
        return {"id": name, "footprint": {"gib": GIB}, "hosting": hosting, "engine": engine}


class Client:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, model: str) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        started = time.monotonic()
        response = self._http.post("/v1/chat/completions", json=body)
        return Answer(response.status_code, response.text, time.monotonic() - started)

    def ask_until_served(self, model: str) -> Answer:
        until = time.monotonic() + 20.0
        while (answer := self.ask(model)).status != 200 and time.monotonic() < until:
            time.sleep(0.05)
        return answer

    def seen_failed(self) -> set[str]:
        """Whom `/readyz` calls so; one that is tried again is so only until then and after."""
        failed: set[str] = set()
        until = time.monotonic() + 5.0
        while failed != set(TROUBLES) and time.monotonic() < until:
            report = self._http.get("/readyz")
            assert not SECRET.search(report.text)
            states = report.json()["experts"]
            failed |= {name for name, state in states.items() if state == "failed"}
            time.sleep(0.05)
        return failed


def tokens(folder: Path) -> set[str]:
    """Of the servers that run from the pool's state folder."""
    return {json.loads(file.read_text())["token"] for file in folder.glob(".coe/*.json")}


class Lines(logging.Handler):
    """Every line that an operator would see."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory,
    serve: Callable[[Starlette], AbstractContextManager[Any]],
) -> Story:
    pool = Pool(tmp_path_factory.mktemp("pool"))
    story, lines = Story(), Lines()
    logging.getLogger().addHandler(lines)
    try:
        with (
            serve(create_app(load_composition(pool.folder / "experts.yaml"))) as live,
            httpx.Client(base_url=live.url, trust_env=False, timeout=30) as http,
        ):
            _live_through(story, pool, Client(http))
    finally:
        pool.close()
        logging.getLogger().removeHandler(lines)
    story.log = lines.lines
    return story


def _live_through(story: Story, pool: Pool, client: Client) -> None:
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            story.meanwhile.append(client.ask("well"))

    with ThreadPoolExecutor(16) as threads:
        client.ask("well")
        asking = threads.submit(keep_asking)
        routed = [threads.submit(client.ask, "coe") for _ in range(4)]
        twice = threads.map(lambda name: (client.ask(name), client.ask(name)), TROUBLES)
        for name, (first, second) in zip(TROUBLES, twice, strict=True):
            story.broken[name], story.again[name] = first, second
        story.routed = [answer.result() for answer in routed]
        story.failed = client.seen_failed()
        pool.heal()
        healed = threads.map(client.ask_until_served, TROUBLES)
        story.healed = dict(zip(TROUBLES, healed, strict=True))
        story.tokens = tokens(pool.folder)
        over.set()
        asking.result()


each = pytest.mark.parametrize("name", TROUBLES)


@each
def test_a_trouble_is_told_to_the_client_in_an_envelope_without_details(
    story: Story, name: str
) -> None:
    for answer in (story.broken[name], story.again[name]):
        assert answer.status == 503
        error = answer.whole["error"]
        assert error["type"] == "server_error"
        assert error["code"] == "expert_unavailable"
        assert f"expert {name!r} could not be started" in error["message"]
        assert not SECRET.search(answer.text)


@each
def test_a_trouble_is_told_to_the_operator_with_its_expert_and_remedy(
    story: Story, name: str
) -> None:
    told = [line for line in story.log if line.startswith(f"expert {name!r}: ")]
    assert re.search(TROUBLES[name].told, told[0], re.DOTALL)
    refusals = [line for line in story.log if "StartupError" in line and repr(name) in line]
    assert refusals
    assert all(re.search(TROUBLES[name].told, line) for line in refusals)
    assert all("\n" not in line for line in refusals), "the log would be flooded"


@each
def test_an_expert_that_failed_is_refused_at_once_the_next_time(story: Story, name: str) -> None:
    assert story.again[name].seconds < 1.0


@each
def test_an_expert_is_served_again_once_its_trouble_is_over(story: Story, name: str) -> None:
    answer = story.healed[name]
    assert answer.status == 200
    assert answer.whole["choices"][0]["message"]["content"] == f"{name} has read: hi"


def test_requests_are_routed_past_those_in_trouble(story: Story) -> None:
    assert [answer.status for answer in story.routed] == [200] * len(story.routed)
    said = {a.whole["choices"][0]["message"]["content"].split()[0] for a in story.routed}
    assert said == {"well"}


def test_an_expert_that_is_well_is_served_all_the_time(story: Story) -> None:
    assert {answer.status for answer in story.meanwhile} == {200}
    assert len(story.meanwhile) > 20
    assert max(answer.seconds for answer in story.meanwhile) < PATIENCE_S


def test_readiness_tells_who_has_failed(story: Story) -> None:
    assert story.failed == set(TROUBLES)


def test_nothing_of_the_pool_is_left_running(story: Story) -> None:
    assert len(story.tokens) == len(TROUBLES) + 1
    assert not any(family(token) for token in story.tokens)
