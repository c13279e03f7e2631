"""Real vLLM servers on loopback, started at most once each and ended whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

START_TIMEOUT_S = 240.0
MAX_MODEL_LEN = 256
_LOGS = pytest.StashKey[dict[str, Path]]()
_VENV = Path(__file__).resolve().parents[2] / ".venv-vllm"

Serve = Callable[[str, Path], str]


@pytest.fixture(scope="session")
def vllm_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serve]:
    """Serves a model directory under a name; gives the base URL, up to and including `/v1`."""
    if not (_VENV / ".installed").is_file():
        pytest.fail("no vLLM here; run `python tests/install.py vllm`, or `make test-slow`")
    folder = tmp_path_factory.mktemp("vllm")
    logs = request.config.stash.setdefault(_LOGS, {})
    base_urls: dict[str, str] = {}
    with ExitStack() as stack:

        def serve(name: str, model: Path) -> str:
            if name not in base_urls:
                logs[name] = folder / f"{name}.log"
                base_urls[name] = stack.enter_context(_served(name, model, logs[name]))
            return base_urls[name]

        yield serve


@contextmanager
def _served(name: str, model: Path, log: Path) -> Iterator[str]:
    port = _free_port()
    command = [
        str(_VENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model), "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager",
    ]  # fmt: skip
    surroundings = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=surroundings,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A process group of its own: vLLM's workers have to go with it.
            start_new_session=True,
        )
    try:
        _await_health(process, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _end_group(process)


def _await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"vLLM ended with status {process.returncode}:\n{_tail(log)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    pytest.fail(f"vLLM is not healthy after {START_TIMEOUT_S:g} s:\n{_tail(log)}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sign, patience_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tail(log: Path, n_lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-n_lines:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the servers logged beside a test that failed."""
    report = yield
    if report.failed:
        for name, log in item.config.stash.get(_LOGS, {}).items():
            report.sections.append((f"vLLM log of {name}", _tail(log)))
    return report
