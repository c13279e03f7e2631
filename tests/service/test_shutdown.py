"""Signals to a real server process while it streams: who is told what, and what is logged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest

SERVER = """
import sys
from coe.composition import Composition
from coe.engines.scripted import ScriptedEngine
from coe.experts import Expert, ExpertPool, ScriptedSpec
from coe.routers.baselines import RandomScorer
from coe.routers.policies import TopK
from coe.routing import Router
from coe.service.app import create_app
from coe.service.server import run

n_words, tokens_per_s, shutdown_timeout_s = map(int, sys.argv[1:])
expert = Expert("slow", ScriptedSpec(default="word " * n_words, tokens_per_s=tokens_per_s))
pool = ExpertPool((expert,))
router = Router(RandomScorer(pool.ids), TopK(1), pool)
run(
    create_app(Composition(router, {"slow": ScriptedEngine(expert)})),
    port=0,
    shutdown_timeout_s=shutdown_timeout_s,
    on_ready=lambda url: print(url, flush=True),
    on_stopping=lambda n, timeout_s: print(f"stopping {n} {timeout_s}", flush=True),
)
"""
ENDLESS = (1000, 20)
"""Words, and words a second: longer than any of these tests."""

Lines = Iterator[str]


class Gateway:
    """A server process that one slow expert answers in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._said()

    @contextmanager
    def streams(self, n: int) -> Iterator[list[Lines]]:
        """So many streams, each past its first event."""
        body = {"model": "coe", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.Client(trust_env=False, timeout=30) as client:
            url = f"{self.url}/v1/chat/completions"
            responses = [client.stream("POST", url, json=body) for _ in range(n)]
            opened = [response.__enter__() for response in responses]
            try:
                lines: list[Lines] = [
                    (line for line in response.iter_lines() if line) for response in opened
                ]
                for stream in lines:
                    next(stream)
                yield lines
            finally:
                for response in responses:
                    response.__exit__(None, None, None)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def signal_until_heard(self) -> str:
        """Sends the first signal; what the server then says it is doing."""
        self.signal()
        return self._said()

    def end(self) -> tuple[int, str]:
        """How the process ended, and all that it wrote to stderr."""
        _, errors = self._process.communicate(timeout=30)
        return self._process.returncode, errors

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


Start = Callable[..., Gateway]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that are gone after the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(n_words: int, tokens_per_s: int, shutdown_timeout_s: int) -> Gateway:
        numbers = [str(number) for number in (n_words, tokens_per_s, shutdown_timeout_s)]
        command = [sys.executable, "-c", SERVER, *numbers]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
        processes.append(process)
        return Gateway(process)

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_streams_that_are_out_of_time_are_told_and_nothing_is_logged(start: Start) -> None:
    gateway = start(*ENDLESS, 1)
    with gateway.streams(3) as streams:
        assert gateway.signal_until_heard() == "stopping 3 1"
        rests = [_rest(stream) for stream in streams]
    for rest in rests:
        assert _error(rest[-1])["code"] == "shutting_down"
        assert "data: [DONE]" not in rest
    assert gateway.end() == (-signal.SIGTERM, "")


def test_stream_that_ends_in_time_is_whole(start: Start) -> None:
    gateway = start(5, 10, 20)
    with gateway.streams(1) as (stream,):
        assert gateway.signal_until_heard() == "stopping 1 20"
        rest = _rest(stream)
    assert rest[-1] == "data: [DONE]"
    assert gateway.end() == (-signal.SIGTERM, "")


def test_request_that_comes_while_others_end_is_sent_elsewhere(start: Start) -> None:
    gateway = start(20, 20, 20)
    with gateway.streams(1) as (stream,):
        assert gateway.signal_until_heard() == "stopping 1 20"
        with httpx.Client(trust_env=False) as client:
            late = client.get(f"{gateway.url}/readyz")
        rest = _rest(stream)
    assert late.status_code == 503
    assert late.headers["retry-after"] == "1"
    assert late.headers["connection"] == "close"
    assert late.json()["error"]["code"] == "shutting_down"
    assert rest[-1] == "data: [DONE]"
    assert gateway.end() == (-signal.SIGTERM, "")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_streams_at_once_and_tells_them(start: Start, second: int) -> None:
    # In its own time the server would outlast the test.
    gateway = start(*ENDLESS, 1000)
    with gateway.streams(2) as streams:
        assert gateway.signal_until_heard() == "stopping 2 1000"
        gateway.signal(second)
        rests = [_rest(stream) for stream in streams]
    assert [_error(rest[-1])["code"] for rest in rests] == ["shutting_down"] * 2
    code, errors = gateway.end()
    assert code in (-second, -signal.SIGTERM)
    assert "CancelledError" not in errors
    assert "ASGI" not in errors


def test_idle_server_stops_at_the_first_signal(start: Start) -> None:
    gateway = start(*ENDLESS, 1000)
    assert gateway.signal_until_heard() == "stopping 0 1000"
    assert gateway.end() == (-signal.SIGTERM, "")


def test_answer_that_fails_in_mid_stream_is_logged_with_its_cause_and_no_more(
    live: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": "faulty", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{live.url}/v1/chat/completions", json=body) as response,
    ):
        said = _rest(line for line in response.iter_lines() if line)
    assert _error(said[-1])["code"] == "upstream_error"
    assert [record.name for record in caplog.records if record.levelname != "INFO"] == [
        "coe.service"
    ]


def _rest(stream: Lines) -> list[str]:
    """What a stream still says until its connection ends, in its own way or cut off."""
    lines: list[str] = []
    try:
        for line in stream:
            lines.append(line)
    except httpx.RemoteProtocolError:
        return lines
    return lines


def _error(line: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(line.removeprefix("data: "))["error"]
    return error
