"""A question's own check of an answer, run as a Python program that can do no harm.

The check is source that sees `completion`, `answer` (what the completion states) and `code` (its
last fenced block, or all of it); if it ends without an exception the answer is right. It runs in a
process of its own: isolated, without the surroundings' variables, in an empty folder, without
network where the system allows it, and within limits of time, memory, files and, unless whoever
runs it is root, processes. That bounds accidents and clumsy code; who runs hostile code needs a
virtual machine around all of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Literal

from coe.aggregation import stated_answer

_CHILD = Path(__file__).with_name("check_child.py")
_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_WRONG = 1
_GRACE_S = 2.0

Level = Literal["passed", "failed", "timeout", "killed"]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a check may take."""

    time_s: float = 10.0
    """Of the clock, and of the processor."""
    memory_mib: int = 512
    file_mib: int = 1
    n_files: int = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check."""

    is_right: bool
    level: Level
    """"killed": it took more than it may, or ended otherwise than by an exception."""


def checked(source: str, completion: str, sandbox: Sandbox) -> Verdict:
    """Runs the check. Blocks for at most the sandbox's time and a little more."""
    passed = token_hex(16)
    given = {
        "source": source,
        "completion": completion,
        "answer": stated_answer(completion),
        "code": code_of(completion),
        "passed": passed,
        **asdict(sandbox),
    }
    with tempfile.TemporaryDirectory(prefix="coe-check-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            said, _ = child.communicate(json.dumps(given).encode(), sandbox.time_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            return Verdict(False, "timeout")
        finally:
            _kill(child)
    if said.decode(errors="replace") == passed:
        return Verdict(True, "passed")
    if child.returncode == -signal.SIGXCPU:
        return Verdict(False, "timeout")
    return Verdict(False, "failed" if child.returncode == _WRONG else "killed")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """With whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def code_of(completion: str) -> str:
    """The last fenced block; the whole text where there is none."""
    blocks = _FENCED.findall(completion)
    return str(blocks[-1]) if blocks else completion
