"""Child processes: listened to, ended with all they started, and never mistaken for others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from coe.engines.child_log import MAX_LINES, ChildLog
from coe.engines.claim import Claim, file_stem
from coe.engines.family import TOKEN_VARIABLE, family
from coe.engines.process import ChildProcess, Order, child_environment, choose_port
from coe.errors import StartupError

Start = Callable[[str], Awaitable[ChildProcess]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a shell script and waits until it has said "up"."""
    children: list[ChildProcess] = []

    async def shell(script: str) -> ChildProcess:
        child = ChildProcess(_order(tmp_path, "/bin/sh", "-c", script))
        children.append(child)
        await child.start()

        async def is_up() -> bool:
            return "up" in child.log.tail()

        await child.ready(is_up)
        return child

    yield shell
    for child in children:
        await child.end(0.1)


def _order(folder: Path, *argv: str) -> Order:
    env = {"PATH": os.environ["PATH"]}
    return Order("e", argv, env, folder)


async def test_a_child_that_ends_too_early_is_told_with_its_last_words(start: Start) -> None:
    with pytest.raises(StartupError) as caught:
        await start("echo loading; echo no such model >&2; exit 3")
    assert "'e'" in str(caught.value)
    assert "ended with status 3" in str(caught.value)
    assert str(caught.value).endswith("loading\nno such model")


@linux
async def test_end_takes_along_whatever_was_started_and_will_not_listen(start: Start) -> None:
    deaf = "trap '' TERM"
    child = await start(f"{deaf}; ({deaf}; sleep 100) & setsid sleep 100 & echo up; wait")
    assert len(child.pids()) >= 3
    token = child.token
    assert await child.end(0.05)
    assert family(token) == set()
    assert not child.is_running
    assert await child.end(0.05), "ending is idempotent"


async def test_end_lets_a_child_that_listens_finish(start: Start) -> None:
    child = await start("trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    assert await child.end(5.0)
    assert await child.exited() == "ended with status 0"
    assert "goodbye" in child.log.tail()


async def test_a_killed_child_says_by_what(start: Start) -> None:
    child = await start("echo up; exec sleep 100")
    os.kill(child.pid, signal.SIGKILL)
    assert await child.exited() == "was killed by SIGKILL"
    assert not child.is_running


async def test_a_program_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    child = ChildProcess(_order(tmp_path, "no-such-vllm", "serve"))
    with pytest.raises(StartupError, match=r"'e'.*'no-such-vllm'.*command"):
        await child.start()
    assert await child.end(1.0)


def test_a_port_in_use_names_expert_port_and_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"'e'.*{port}.*another port"):
            choose_port("e", port)
    assert choose_port("e", port) == port
    assert choose_port("e", 0) > 0


def test_secrets_reach_a_child_only_by_name() -> None:
    around = {
        "PATH": "/bin", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "k", "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s", "DB_PASSWORD": "p",
    }  # fmt: skip
    env = child_environment(around, ["HF_TOKEN"], {"HF_HUB_OFFLINE": "0"})
    assert env == {
        "PATH": "/bin", "HF_TOKEN": "t", "HF_HUB_OFFLINE": "0", "PYTHONUNBUFFERED": "1",
        "SPT_NOENV": "1",
    }  # fmt: skip


async def test_a_second_owner_of_one_state_folder_is_refused(tmp_path: Path) -> None:
    first, second = Claim("e", tmp_path), Claim("e", tmp_path)
    await first.take()
    with pytest.raises(StartupError, match="another CoE"):
        await second.take()
    await Claim("f", tmp_path).take()
    first.release()
    await second.take()


async def test_a_state_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="state folder"):
        await Claim("e", tmp_path / "file" / "state").take()


@linux
async def test_exactly_the_orphans_of_a_dead_owner_are_reaped(tmp_path: Path) -> None:
    record = tmp_path / f"{file_stem('e')}.json"
    record.write_text(json.dumps({"expert": "e", "token": "of the dead"}))
    orphan, stranger = (
        subprocess.Popen(["sleep", "100"], env={TOKEN_VARIABLE: token})
        for token in ("of the dead", "of somebody else")
    )
    try:
        token = await Claim("e", tmp_path).take()
        assert orphan.wait(5) == -signal.SIGKILL
        assert stranger.poll() is None
        assert json.loads(record.read_text())["token"] == token
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


@linux
async def test_a_start_ends_what_a_dead_owner_left_of_other_experts(tmp_path: Path) -> None:
    owned = Claim("living", tmp_path)
    tokens = {"living": await owned.take(), "dead": "of the dead"}
    record = tmp_path / f"{file_stem('dead')}.json"
    record.write_text(json.dumps({"expert": "dead", "token": tokens["dead"]}))
    record.with_suffix(".lock").touch()
    living, orphan = (
        subprocess.Popen(["sleep", "100"], env={TOKEN_VARIABLE: token}) for token in tokens.values()
    )
    try:
        await Claim("e", tmp_path).take()
        assert orphan.wait(5) == -signal.SIGKILL
        assert living.poll() is None
        assert not record.exists()
        assert await Claim("dead", tmp_path).take()
    finally:
        for process in (living, orphan):
            process.kill()
            process.wait()


@linux
async def test_when_we_are_killed_the_child_ends_and_what_is_left_is_reaped(tmp_path: Path) -> None:
    """The leash ends the child; a grandchild that it left behind falls to the next start."""
    script = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from coe.engines.process import ChildProcess, Order
        async def main():
            shell = "trap '' HUP; setsid sleep 100 & echo up; wait"
            order = Order("e", ("/bin/sh", "-c", shell), dict(os.environ), Path({str(tmp_path)!r}))
            child = ChildProcess(order)
            await child.start()
            while "up" not in child.log.tail():
                await asyncio.sleep(0.01)
            print(child.token, child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    token, pid = done.stdout.split()
    async with asyncio.timeout(5):
        while int(pid) in family(token):
            await asyncio.sleep(0.01)
    assert family(token), "the grandchild outlives us"
    await Claim("e", tmp_path).take()
    assert family(token) == set()


def test_ids_that_differ_have_files_that_differ() -> None:
    stems = {file_stem(id_) for id_ in ("a/b", "a_b", "A/b", "a:b", "x" * 100, "x" * 101)}
    assert len(stems) == 6
    assert all("/" not in stem and len(stem) < 60 for stem in stems)


def test_the_log_keeps_the_last_lines_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "e.log"
    log = ChildLog(path, max_file_bytes=1000)
    for number in range(1000):
        log.feed(f"line {number}\n".encode())
    log.feed(b"  10%\r 100%\nno end")
    assert log.lines()[-1] == " 100%"
    log.end()
    assert log.tail(2) == " 100%\nno end"
    assert len(log.lines()) == MAX_LINES
    assert log.lines(since=log.n_lines - 1) == ["no end"]
    assert path.stat().st_size <= 1000 + 20
    assert path.with_suffix(".log.1").stat().st_size <= 1000 + 20
    kept = path.with_suffix(".log.1").read_bytes() + path.read_bytes()
    assert kept.endswith(b"line 999\n  10%\r 100%\nno end")


def test_a_line_without_end_is_bounded() -> None:
    log = ChildLog(None)
    for _ in range(100):
        log.feed(b"x" * 1000)
    assert all(len(line) <= 2000 for line in log.lines())
