"""`coe serve --workers 2`: real processes behind one port, killed, reloaded and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

COE = (sys.executable, "-m", "coe.cli")
SERVE = (*COE, "serve", "--port", "0", "--workers", "2")
ADMIN_KEY = "a key that nobody guesses"
POOL = """
experts:
  - {id: quick, engine: {kind: scripted, default: quick}, price: {usd_per_mtok_out: 100000}}
  - {id: slow, engine: {kind: scripted, default: WORDS, tokens_per_s: 10}}
router: {scorer: random, feedback: feedback.jsonl}
trace: asked.jsonl
gateway: {keys: true}
""".replace("WORDS", "word " * 20)


class Gateway:
    """The command, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "experts.yaml"
        self.file.write_text(POOL, encoding="utf-8")
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [*SERVE, "-c", str(self.file), "--admin-port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COE_ADMIN_KEY": ADMIN_KEY},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.admin = self.until(r"admin API at (http\S+)/admin")
        self.url = self.until(r"ready at (http\S+)/v1")
        made = subprocess.run(
            [*COE, "keys", "create", "acme", "-c", str(self.file), "--rpm", "40"],
            capture_output=True,
            text=True,
            check=True,
        )
        self.headers = {"authorization": f"Bearer {made.stdout.strip()}"}
        self.operator = {"authorization": f"Bearer {ADMIN_KEY}"}

    def until(self, pattern: str, n: int = 1) -> str:
        """What a line says, of which there are to be so many."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [match for line in self._lines if (match := re.search(pattern, line))]
            if len(found) >= n:
                return found[-1][found[-1].re.groups]
            time.sleep(0.02)
        raise AssertionError(f"{pattern} in {self._lines}")

    def ask(self, model: str = "quick", **more: Any) -> httpx.Response:
        """Over a connection of its own, which may be any worker's."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body, headers=self.headers)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def numbers(self, name: str) -> dict[str, float]:
        """By worker, summed over all other labels."""
        with self.client() as client:
            text = client.get("/metrics", headers=self.headers).text
        found: dict[str, float] = {}
        for worker, value in re.findall(rf'^{name}{{.*worker="(\d)".*}} (\S+)$', text, re.M):
            found[worker] = found.get(worker, 0.0) + float(value)
        return found

    def worker_pids(self) -> list[int]:
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        )
        return [int(pid) for pid in told.stdout.split()]

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(line for line in self.process.stderr)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    opened = Gateway(tmp_path)
    yield opened
    opened.close()


def test_workers_are_one_gateway_to_its_clients(gateway: Gateway) -> None:
    began_s = time.monotonic()
    answers = [gateway.ask() for _ in range(60)]
    most = 41 + int((time.monotonic() - began_s) * 40 / 60)
    statuses = [answer.status_code for answer in answers]
    assert 40 <= statuses.count(200) <= most, "one rate, and what a few seconds refill"
    assert set(statuses) == {200, 429}
    time.sleep(1.5)  # they tell each other their numbers every second
    served = gateway.numbers("coe_http_request_duration_seconds_count")
    assert set(served) == {"0", "1"}
    assert sum(served.values()) >= 60
    decisions = [answer.headers["x-coe-decision-id"] for answer in answers if answer.is_success]
    with gateway.client() as client:
        for decision_id in decisions[:10]:
            told = client.post(
                "/v1/feedback",
                json={"decision_id": decision_id, "score": 1.0},
                headers=gateway.headers,
            )
            assert told.status_code == 200
    lines = (gateway.folder / "asked.jsonl").read_text("utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    assert len(asked) == len(decisions)


@contextmanager
def _stream(gateway: Gateway) -> Iterator[Iterator[str]]:
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with (
        gateway.client() as client,
        client.stream(
            "POST", "/v1/chat/completions", json=body, headers=gateway.headers
        ) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        yield lines


def test_killed_worker_takes_nothing_with_it_but_what_it_was_doing(gateway: Gateway) -> None:
    began_s = time.monotonic()
    statuses = [gateway.ask().status_code for _ in range(45)]
    assert statuses[-1] == 429
    for pid in gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
        gateway.until(r"was killed by SIGKILL; it is started again")
        statuses += [gateway.ask().status_code for _ in range(10)]
    assert set(statuses) == {200, 429}
    most = 41 + int((time.monotonic() - began_s) * 40 / 60)
    assert statuses.count(200) <= most, "the new ones know what the key has asked for"
    gateway.until("was killed by SIGKILL", n=2)
    deadline = time.monotonic() + 60
    while len(gateway.worker_pids()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_reload_reaches_all_workers_by_signal_and_by_request(gateway: Gateway) -> None:
    text = POOL.replace("default: quick}", "default: quicker}")
    gateway.file.write_text(text, encoding="utf-8")
    answer = httpx.post(
        f"{gateway.admin}/admin/reload", headers=gateway.operator, timeout=60, trust_env=False
    )
    assert (answer.status_code, answer.json()["reloaded"]["changed"]) == (200, ["quick"])

    def said() -> set[str]:
        return {gateway.ask().json()["choices"][0]["message"]["content"] for _ in range(12)}

    assert said() == {"quicker"}
    gateway.file.write_text(text.replace("quicker", "quickest"), encoding="utf-8")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(r"reloaded: random/top-1; changed quick", n=2)
    assert said() == {"quickest"}
    gateway.file.write_text(POOL.replace("scripted", "scrpted"), encoding="utf-8")
    answer = httpx.post(
        f"{gateway.admin}/admin/reload", headers=gateway.operator, timeout=60, trust_env=False
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_reloaded")


def test_batch_is_answered_and_fetched_by_way_of_any_worker(gateway: Gateway) -> None:
    body = {"model": "quick", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "r0", "method": "POST", "url": "/v1/chat/completions", "body": body}
    form, fields = {"file": ("in.jsonl", json.dumps(line).encode())}, {"purpose": "batch"}
    with gateway.client() as client:
        file = client.post("/v1/files", files=form, data=fields, headers=gateway.headers).json()
    told = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    with gateway.client() as client:
        batch = client.post("/v1/batches", json=told, headers=gateway.headers).json()
    deadline = time.monotonic() + 60
    while batch["status"] != "completed":
        assert time.monotonic() < deadline
        with gateway.client() as client:
            batch = client.get(f"/v1/batches/{batch['id']}", headers=gateway.headers).json()
    for _ in range(6):
        with gateway.client() as client:
            path = f"/v1/files/{batch['output_file_id']}/content"
            output = client.get(path, headers=gateway.headers)
        assert json.loads(output.content)["custom_id"] == "r0"


def test_response_of_one_worker_is_gone_on_from_in_another(gateway: Gateway) -> None:
    with gateway.client() as client:
        body: dict[str, Any] = {"model": "quick", "input": "hi"}
        first = client.post("/v1/responses", json=body, headers=gateway.headers).json()
    for _ in range(8):
        with gateway.client() as client:
            body["previous_response_id"] = first["id"]
            answer = client.post("/v1/responses", json=body, headers=gateway.headers)
        assert answer.status_code == 200


def test_signal_lets_all_workers_finish(gateway: Gateway) -> None:
    with _stream(gateway) as one, _stream(gateway) as other:
        gateway.process.send_signal(signal.SIGTERM)
        gateway.until("worker 0: stopping")
        gateway.until("worker 1: stopping")
        for lines in (one, other):
            assert list(lines)[-2] == "data: [DONE]"
    assert gateway.process.wait(60) == -signal.SIGTERM


def test_workers_end_with_the_process_that_has_started_them(gateway: Gateway) -> None:
    pids = gateway.worker_pids()
    assert len(pids) == 2
    gateway.process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_pool_that_the_gateway_hosts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    hosted = POOL.replace("default: quick}", "default: quick}, footprint: {gib: 1}")
    file.write_text(hosted, encoding="utf-8")
    refused = subprocess.run(
        [*SERVE, "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "quick: the gateway hosts these itself" in refused.stderr
