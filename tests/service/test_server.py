from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from coe.errors import ConfigError
from coe.service.app import create_app
from coe.service.server import base_url, bind, run
from coe.service.settings import ServiceSettings

SERVER = """
import logging, os, signal, threading, urllib.request
from starlette.applications import Starlette
from coe.service.server import run

def ready(url):
    def check():
        with open(os.environ["SEEN"], "w") as seen:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                opener.open(url + "/none")
            except urllib.error.HTTPError as error:
                seen.write(str(error.code))
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=check).start()

logging.basicConfig(level=logging.INFO)
run(Starlette(), "127.0.0.1", 0, on_ready=ready)
"""


def test_bind_takes_a_free_port_and_tells_it() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert base_url(listener) == f"http://127.0.0.1:{port}"


def test_run_names_the_address_it_cannot_have(compose: Any) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            run(create_app(compose()), "127.0.0.1", port)


def test_run_is_silent_from_start_to_signal(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        env={"SEEN": str(seen)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert seen.read_text() == "404"
    assert (done.stdout, done.stderr) == (b"", b"")
    assert done.returncode == -15


def test_server_that_shuts_down_tells_whom_it_cannot_wait_for(
    compose: Any, fakes: Any, serve: Any
) -> None:
    engine = fakes.hanging("a", 0)
    answers: list[httpx.Response] = []
    with serve(create_app(compose({"a": engine})), shutdown_timeout_s=0) as live:

        def ask() -> None:
            body = {"model": "coe", "messages": [{"role": "user", "content": "hi"}]}
            url = f"{live.url}/v1/chat/completions"
            answers.append(httpx.post(url, json=body, trust_env=False))

        asking = threading.Thread(target=ask)
        asking.start()
        assert engine.hung.wait(10)
        live.stop()
        asking.join(10)
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "shutting_down"
    assert engine.cancelled == 1


def test_server_gives_up_on_a_body_that_does_not_arrive(compose: Any, serve: Any) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: coe\r\n"
        b"content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    )
    app = create_app(compose(), ServiceSettings(request_timeout_s=0.02))
    with serve(app, shutdown_timeout_s=0) as live:
        address = ("127.0.0.1", int(live.url.rpartition(":")[2]))
        with (
            socket.create_connection(address, timeout=5) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(head + b'{"model"')
            # Ends only because the server closes the connection.
            said = answer.read()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in said


def test_server_drains_a_refused_body_and_keeps_the_connection(live: Any) -> None:
    with httpx.Client(trust_env=False) as client:
        too_large = client.post(f"{live.url}/v1/chat/completions", content=b" " * (9 << 20))
        after = client.get(f"{live.url}/healthz")
    assert too_large.status_code == 413
    assert too_large.json()["error"]["code"] == "request_too_large"
    assert after.status_code == 200


@pytest.mark.parametrize("options", [[], ["--whole"], ["--rate", "50"]])
def test_load_generator_reports_what_the_gateway_did(
    live: Any, repository: Path, options: list[str]
) -> None:
    command = [sys.executable, str(repository / "bench" / "serve_load.py"), "--url", live.url]
    settings = ["--concurrency", "4", "--seconds", "0.2", "--prompt", "sums: 1 + 2"]
    done = subprocess.run(
        [*command, *settings, *options], capture_output=True, timeout=60, check=True
    )
    report = json.loads(done.stdout)
    assert report["errors"] == {}
    assert report["requests"] > 0
    tokens_each = report["completion_tokens_per_s"] / report["requests_per_s"]
    assert tokens_each == pytest.approx(5, rel=0.05)
    assert 0 < report["ttft_ms"]["p50"] <= report["latency_ms"]["p50"]
