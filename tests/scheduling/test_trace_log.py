"""The trace that a gateway writes is the one that is read, whatever ends the writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from coe.errors import ConfigError
from coe.scheduling.expert_trace import read_trace
from coe.scheduling.trace_log import TraceLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


def test_trace_log_is_read_back_in_order(file: Path) -> None:
    seconds = count(100)
    log = TraceLog(file, clock=lambda: float(next(seconds)))
    log.add(("a",))
    log.add(("b", "a"))
    log.add(["c"])
    log.close()
    log.close()
    trace = read_trace(file)
    assert [trace.expert_ids[e] for e in trace.experts] == ["a", "b", "a", "c"]
    assert trace.queries.tolist() == [0, 1, 1, 2]
    assert trace.times_s.tolist() == [100.0, 101.0, 102.0]
    assert file.stat().st_mode & 0o077 == 0


def test_trace_log_goes_on_where_the_file_ends(file: Path) -> None:
    file.write_text('{"expert": "a", "time": 1}\n{"expert": "b", "time": 2}')
    log = TraceLog(file)
    log.add(("c",))
    log.close()
    assert read_trace(file).expert_ids == ("a", "b", "c")


def test_trace_log_is_written_while_it_is_open(file: Path) -> None:
    log = TraceLog(file, every_s=0.001)
    log.add(("a",))
    until_s = time.monotonic() + 10
    while not file.stat().st_size and time.monotonic() < until_s:
        time.sleep(0.001)
    assert read_trace(file).expert_ids == ("a",)
    log.close()


def test_trace_log_takes_lines_from_any_thread(file: Path) -> None:
    log = TraceLog(file, every_s=0.001)

    def add() -> None:
        for _ in range(200):
            log.add(("a", "b"))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(read_trace(file)) == 2 * 4 * 200


def test_trace_log_leaves_out_what_its_queue_cannot_hold(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = TraceLog(file, max_queued=3, every_s=3600)
    for _ in range(9):
        log.add(("a",))
    log.close()
    assert len(read_trace(file)) == 3
    assert caplog.text.count("not whole") == 1


def test_trace_log_stops_at_its_limit(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = TraceLog(file, max_bytes=10)
    log.add(("a",))
    log.close()
    assert file.stat().st_size == 0
    assert "limit of 10 bytes" in caplog.text


def test_trace_log_of_two_gateways_needs_two_files(file: Path, tmp_path: Path) -> None:
    log = TraceLog(file)
    with pytest.raises(ConfigError, match="give each its own") as caught:
        TraceLog(file)
    assert (caught.value.file, caught.value.key) == (str(file), "trace")
    log.close()
    TraceLog(file).close()
    with pytest.raises(ConfigError, match="cannot be written"):
        TraceLog(tmp_path)


def test_trace_log_survives_a_kill_up_to_the_last_second(file: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from coe.scheduling.trace_log import TraceLog\n"
        "log = TraceLog(Path(sys.argv[1]))\n"
        "for n in range(500): log.add((f'e{n % 7}',))\n"
        "time.sleep(1.0)\n"
        "print('told', flush=True)\n"
        "while True: log.add(('late',)); time.sleep(0.001)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"told\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    trace = read_trace(file)
    asked = [trace.expert_ids[e] for e in trace.experts]
    assert asked[:500] == [f"e{n % 7}" for n in range(500)]
    assert set(asked[500:]) <= {"late"}


def test_read_trace_leaves_out_experts_that_are_hosted_elsewhere(file: Path) -> None:
    log = TraceLog(file)
    for asked in (("far",), ("a", "far"), ("far", "b", "a"), ("b",)):
        log.add(asked)
    log.close()
    trace = read_trace(file, elsewhere={"far"})
    assert [trace.expert_ids[e] for e in trace.experts] == ["a", "b", "a", "b"]
    assert trace.queries.tolist() == [0, 1, 1, 2]


def test_processes_that_share_a_trace_write_whole_lines(file: Path) -> None:
    logs = [TraceLog(file, every_s=0.001, is_shared=True) for _ in range(3)]
    names = [f"expert-{number}-" + "x" * 500 for number in range(3)]

    def add(number: int) -> None:
        for _ in range(300):
            logs[number].add([names[number]])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ConfigError, match="another gateway writes it"):
        TraceLog(file)
    for log in logs:
        log.close()
    trace = read_trace(file)
    assert sorted(trace.expert_ids) == names
    assert len(trace.queries) == 900


def test_trace_of_one_process_is_not_shared(file: Path) -> None:
    log = TraceLog(file)
    with pytest.raises(ConfigError, match="another gateway writes it"):
        TraceLog(file, is_shared=True)
    log.close()
