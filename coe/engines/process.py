"""A supervised child process: started in a session of its own, listened to, and surely ended.

Restarting is not decided here. Nothing goes through a shell.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coe.engines.child_log import ChildLog
from coe.engines.claim import Claim, file_stem
from coe.engines.family import TOKEN_VARIABLE, family, kill_family, signal_group
from coe.errors import StartupError

LOOPBACK = "127.0.0.1"
_LEASH = Path(__file__).with_name("leash.py")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_KILL_S = 10.0
_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 0.25

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. Everything it needs is in here and nothing else reaches it."""

    expert_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path
    """State folder: lock, record and log."""


class ChildProcess:
    """One start of a command. `order.expert_id` is who is blamed for it."""

    def __init__(self, order: Order, claim: Claim | None = None) -> None:
        self._order = order
        self._claim = claim or Claim(order.expert_id, order.folder)
        self.token = ""
        """What its family is known by; empty before the start."""
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[int] | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log = ChildLog(order.folder / f"{file_stem(order.expert_id)}.log")

    async def start(self) -> None:
        """Returns once it runs, which is not yet ready. Raises `StartupError`."""
        order = self._order
        program = shutil.which(order.argv[0], path=order.env.get("PATH", os.defpath))
        if program is None:
            raise StartupError(
                order.expert_id,
                f"there is no program {order.argv[0]!r}; install it, or name the one to run, or "
                "the Python of its environment, in the expert's command",
            )
        self.token = await self._claim.take()
        argv = (program, *order.argv[1:])
        if sys.platform == "linux":
            argv = (sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *argv)
        read_end, write_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                env={**order.env, TOKEN_VARIABLE: self.token},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        except OSError as error:
            os.close(read_end)
            self._claim.release()
            raise StartupError(
                order.expert_id, f"{program} cannot be run: {error.strerror}"
            ) from None
        finally:
            os.close(write_end)
        self._reading = asyncio.create_task(self._read(read_end))
        self._watch = asyncio.create_task(self._process.wait())

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self._process.pid if self._process is not None else 0

    def pids(self) -> set[int]:
        """Those of it and of all it started, as far as they can be told."""
        found = family(self.token) if self.token else set()
        return found or ({self._process.pid} if self._process and self.is_running else set())

    async def exited(self) -> str:
        """Waits for its end, by itself or not, and tells it in words."""
        assert self._watch is not None, "it was never started"
        return _ending(await asyncio.shield(self._watch))

    async def ready(self, probe: Probe) -> None:
        """Returns once the probe says so. Raises `StartupError` if it ends before that."""
        watch = asyncio.ensure_future(self.exited())
        pause_s = _FIRST_POLL_S
        try:
            while not await probe():
                if watch.done():
                    await self._read_out()
                    raise StartupError(self._order.expert_id, self.obituary(watch.result()))
                await asyncio.wait([watch], timeout=pause_s)
                pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)
        finally:
            watch.cancel()

    def obituary(self, ending: str) -> str:
        """Its end and its last words."""
        where = f" (all of it: {self.log.path})" if self.log.path else ""
        return f"its process {ending}; the last lines of its log{where}:\n{self.log.tail()}"

    async def end(self, grace_s: float) -> bool:
        """Whether nothing of it is left: asked to end first, then killed with all it started."""
        if not self.token:
            return True
        process, watch = self._process, self._watch
        if process is not None and watch is not None:
            if self.is_running:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await asyncio.wait([watch], timeout=grace_s)
            signal_group(process.pid, signal.SIGKILL)
            await asyncio.wait([watch], timeout=_KILL_S)
        # Also where a start was cancelled before it told us of its process.
        is_gone = await kill_family(self.token, _KILL_S) and not self.is_running
        await self._read_out()
        if is_gone:
            self._claim.release()
        return is_gone

    async def _read(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        try:
            while chunk := await reader.read(64 * 1024):
                self.log.feed(chunk)
        finally:
            self.log.end()
            transport.close()

    async def _read_out(self) -> None:
        """What it said last; a grandchild that keeps the pipe open is not waited for."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=0.5)
            self._reading.cancel()
            await asyncio.wait([self._reading])


def child_environment(
    surroundings: Mapping[str, str], passed: Iterable[str], own: Mapping[str, str]
) -> dict[str, str]:
    """What a child inherits: all but what looks like a secret and is not named in `passed`.

    `own` comes last and says what it likes.
    """
    named = set(passed)
    kept = {
        name: value
        for name, value in surroundings.items()
        if name in named or not _SECRET.search(name)
    }
    # vLLM's workers rename themselves, over their environment unless they are told not to: then
    # the token, by which they are found, would be gone.
    return {**kept, "PYTHONUNBUFFERED": "1", "SPT_NOENV": "1", **own}


def choose_port(expert_id: str, port: int) -> int:
    """That port, or a free one for 0. Raises `StartupError` if somebody listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StartupError(
                expert_id,
                f"port {port} on {LOOPBACK} cannot be had ({os.strerror(error.errno or 0)}); "
                "stop what uses it, name another port, or leave the port out to have one chosen",
            ) from None
        return int(probe.getsockname()[1])


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
