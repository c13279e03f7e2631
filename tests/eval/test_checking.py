"""Checks that are Python programs: what they see, and that they can do no harm."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from coe.eval.benchmarks.checking import Sandbox, checked, code_of

FAST = Sandbox(time_s=5.0)
ADD = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


@pytest.mark.parametrize(
    ("source", "completion", "level"),
    [
        ("exec(code, globals())\nassert add(2, 3) == 5", ADD, "passed"),
        ("exec(code, globals())\nassert add(2, 3) == 6", ADD, "failed"),
        ("assert int(answer) % 7 == 0", "The answer is 49.", "passed"),
        ("assert len(completion.split()) < 3", "one two three", "failed"),
        ("this is no python", "x", "failed"),
        ("import sys; sys.exit(0)", "x", "failed"),
        ("import os; os._exit(0)", "x", "killed"),
        ("import numpy", "x", "failed"),
        ("import os; assert not os.environ.get('HOME')", "x", "passed"),
        ("import os; assert os.listdir('.') == []", "x", "passed"),
        ("x = bytearray(2 << 30)", "x", "failed"),
        ("open('big', 'wb').write(bytes(4 << 20))", "x", "failed"),
        ("open('small', 'wb').write(bytes(1 << 10))", "x", "passed"),
    ],
)
def test_check_ends_as_its_program_does(source: str, completion: str, level: str) -> None:
    verdict = checked(source, completion, FAST)
    assert (verdict.level, verdict.is_right) == (level, level == "passed")


@pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(60)"])
def test_check_that_takes_too_long_is_ended(source: str) -> None:
    assert checked(source, "x", Sandbox(time_s=1.0)).level == "timeout"


def test_check_cannot_pass_by_printing() -> None:
    assert checked("print('passed'); raise SystemExit", "x", FAST).level == "failed"


def _may_leave_the_network() -> bool:
    """Whether this system lets a process have a network of its own."""
    leave = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    return subprocess.run([sys.executable, "-c", leave], check=False).returncode == 0


def test_check_reaches_no_network_where_the_system_allows_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        verdict = checked(source, "x", FAST)
    assert verdict.level == ("failed" if _may_leave_the_network() else "passed")


def test_code_is_the_last_fenced_block_or_all_of_it() -> None:
    assert code_of("```\na\n```\nand\n```py\nb\n```") == "b\n"
    assert code_of("a = 1") == "a = 1"
