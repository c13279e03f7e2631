"""The examples of other people's clients, run as they are against a gateway that serves.

Slow: they are installed in an environment of their own, by `tests/install.py`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coe.service.app import create_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VENV = Path(__file__).resolve().parents[2] / ".venv-clients"
UNTIL_S = 300
Run = Callable[[str, str], str]


@pytest.fixture
def run(repository: Path, tmp_path: Path) -> Run:
    """Runs an example against a gateway; gives what it prints."""
    if not (VENV / ".installed").is_file():
        pytest.fail("no clients here; run `python tests/install.py clients`, or `make test-slow`")

    def example(name: str, url: str) -> str:
        file = repository / "examples" / "clients" / name
        env = {
            "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "COE_URL": f"{url}/v1",
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
            # Nobody looks for prices, models or data elsewhere.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HUB_OFFLINE": "1",
        }
        command = [str(file)] if file.suffix == ".sh" else [str(VENV / "bin" / "python"), str(file)]
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=UNTIL_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return example


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[str]:
    """Where `coe serve` listens with the pool that ships."""
    command = [sys.executable, "-m", "coe.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = (re.search(r"ready at (\S+)/v1", line) for line in process.stderr)
        yield next(match[1] for match in found if match)
        process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("client", ["litellm", "langchain"])
def test_client_asks_the_pool_that_ships(run: Run, served: str, client: str) -> None:
    assert run(f"{client}_chat.py", served) == "whole: Lima\nstreamed: Lima\n"


def test_openai_client_of_another_version_asks_the_pool_that_ships(run: Run, served: str) -> None:
    assert run("openai_chat.py", served) == "geography says: Lima\nLima\n"


def test_curl_asks_the_pool_that_ships(run: Run, served: str) -> None:
    told = run("curl.sh", served)
    assert '"experts":["geography"]' in told
    assert '"content":"Lima"' in told
    assert "data: [DONE]" in told


def test_lm_eval_grades_the_pool_that_ships(run: Run, served: str) -> None:
    assert re.search(r"exact_match\|.*\|\s*1\|", run("lm_eval.sh", served))


def test_langchain_calls_tools_and_fills_types(run: Run, features: Any) -> None:
    told = run("langchain_tools.py", features.url)
    assert "called: add {'a': 42, 'b': 42}\n" in told
    assert "answered: 84\n" in told
    assert "filled: total=42 unit='text'\n" in told


def test_litellm_calls_tools(run: Run, features: Any) -> None:
    told = run("litellm_tools.py", features.url)
    assert 'called: add {"a":42,"b":42}\n' in told
    assert 'streamed: add {"a":42,"b":42}\n' in told


def test_litellm_is_told_what_went_wrong(
    tmp_path: Path, compose: Any, serve: Any, run: Run
) -> None:
    """Errors keep their kind through litellm's own table."""
    program = tmp_path / "wrong.py"
    program.write_text(
        "import os, litellm\n"
        "litellm.suppress_debug_info = True\n"
        "said = [{'role': 'user', 'content': 'hi'}]\n"
        "gateway = {'api_base': os.environ['COE_URL'], 'api_key': 'none'}\n"
        "for model, more in (('openai/nobody', {}), ('openai/coe', {'temperature': 9})):\n"
        "    try:\n"
        "        litellm.completion(model, said, num_retries=0, **gateway, **more)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error.status_code)\n",
        encoding="utf-8",
    )
    with serve(create_app(compose())) as url:
        told = run(str(program), url).splitlines()
    assert told == ["NotFoundError 404", "BadRequestError 400"]
